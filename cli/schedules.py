"""What happens in a run, and when: the marks on its curves."""

from collections.abc import Sequence
from typing import Any

from alexprep.model.training.schedule import Phase

from .settings import Settings, schedule_of


def marks(rows: Sequence[dict[str, Any]], settings: Settings) -> tuple[tuple[int, str], ...]:
    """Return (step, what happened), in order: a new learning rate, another phase of the schedule, the run going on after a stop, its best error."""
    made: list[tuple[int, str]] = []
    lr, phase, schedule = None, Phase(0.0), schedule_of(settings)
    best: tuple[float, int, int] | None = None
    for row in rows:
        if row["event"] == "start" and row["step"]:
            made.append((row["step"], f"continued, {row['ranks']} rank{'s' if row['ranks'] > 1 else ''}"))
        elif row["event"] == "step":
            if lr is not None and row["lr"] != lr:
                made.append((row["step"], f"learning rate {row['lr']:g}"))
            lr = row["lr"]
        elif row["event"] == "eval":
            now = schedule.phase(row["epoch"])  # of the epoch that begins
            if row["epoch"] > 1 and now.colour != phase.colour:
                made.append((row["step"], "colour " + ("on" if now.colour else "off")))
            if row["epoch"] > 1 and now.conv1 != phase.conv1:
                made.append((row["step"], f"conv1's learning rate times {now.conv1:g}" if now.conv1 else "conv1 frozen"))
            phase = now
            if best is None or row["top1_error"] < best[0]:
                best = (row["top1_error"], row["step"], row["epoch"])
    if best is not None:
        made.append((best[1], f"lowest validation error, {100 * best[0]:.2f} %, epoch {best[2]}"))
    return tuple(sorted(made))
