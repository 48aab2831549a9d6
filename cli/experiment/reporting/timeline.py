"""Find the events that are marked on the curves of a run."""

from collections.abc import Sequence

from alexprep.model.events import RunEvent, Started, StepLog, Validation, of_kind
from alexprep.model.training.schedule import Phase

from ..config import RunConfig, schedule_of


def marks(events: Sequence[RunEvent], settings: RunConfig) -> tuple[tuple[int, str], ...]:
    """Return (step, what happened) in order of the steps. Marked are new learning rates, phases of the schedule, resumptions and the lowest error."""
    made: list[tuple[int, str]] = []
    lr, phase, schedule = None, Phase(0.0), schedule_of(settings)
    for event in events:
        if isinstance(event, Started) and event.step:
            made.append((event.step, f"continued, {event.ranks} rank{'s' if event.ranks > 1 else ''}"))
        elif isinstance(event, StepLog):
            if lr is not None and event.lr != lr:
                made.append((event.step, f"learning rate {event.lr:g}"))
            lr = event.lr
        elif isinstance(event, Validation):
            now = schedule.phase(event.epoch)  # phase of the epoch that begins
            if event.epoch > 1 and now.colour != phase.colour:
                made.append((event.step, "colour " + ("on" if now.colour else "off")))
            if event.epoch > 1 and now.conv1 != phase.conv1:
                made.append((event.step, f"conv1's learning rate times {now.conv1:g}" if now.conv1 else "conv1 frozen"))
            phase = now
    validations = of_kind(events, Validation)
    if validations:
        best = min(validations, key=lambda one: one.top1_error)  # the first of equal ones
        made.append((best.step, f"lowest validation error, {100 * best.top1_error:.2f} %, epoch {best.epoch}"))
    return tuple(sorted(made))
