"""Schedules: an epoch's learning rates and whether colour augmentation is on, as a `Phase`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Phase:
    """The settings of one epoch."""

    lr: float
    conv1: float = 1.0  # factor on the first layer's learning rate; 0 freezes it
    colour: bool = True  # whether PCA colour augmentation is on


@runtime_checkable
class Schedule(Protocol):
    """Gives each epoch its phase."""

    def phase(self, epoch: int) -> Phase:
        """Return the phase of `epoch`, counted from 0."""

    def observe(self, error: float) -> None:
        """Take the validation error (a share) after an epoch."""

    def finished(self, epoch: int) -> bool:
        """Tell whether training ends before `epoch`."""

    def state_dict(self) -> dict[str, float]:
        """Return the state that `observe` has built up."""

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a state that `state_dict` returned."""


@dataclass(frozen=True)
class ScheduleEvent:
    """The settings that apply from some share of the run on."""

    share: float  # of the run's epochs
    drops: int  # how often the initial learning rate is divided by 10
    conv1: float = 1.0
    colour: bool = True


# The authors' script of 95 epochs: its events begin at epochs 22, 49, 66, 73 and 81
SCRIPT = (
    ScheduleEvent(22 / 95, 1),
    ScheduleEvent(49 / 95, 2),
    ScheduleEvent(66 / 95, 2, 0.1, colour=False),
    ScheduleEvent(73 / 95, 2, 0.0, colour=False),
    ScheduleEvent(81 / 95, 3, 0.0, colour=False),
)


def drops_at(shares: Sequence[float]) -> tuple[ScheduleEvent, ...]:
    """Return events that only divide the learning rate by 10, at these shares of the run."""
    return tuple(ScheduleEvent(share, drops) for drops, share in enumerate(sorted(shares), 1))


class Timetable:
    """A schedule of fixed events.

    With another number of epochs the events keep their share of the run, but none begins with the
    first epoch.
    """

    def __init__(self, lr: float, epochs: int, events: Sequence[ScheduleEvent]) -> None:
        """Start at `lr` and end after `epochs`; `events` are in order."""
        self._lr, self._epochs, self._events = lr, epochs, (ScheduleEvent(0, 0), *events)

    def phase(self, epoch: int) -> Phase:
        """Return the phase that the latest event sets."""
        begun = [event for event in self._events if (max(1, round(event.share * self._epochs)) if event.share else 0) <= epoch]
        event = begun[-1]
        return Phase(self._lr / 10**event.drops, event.conv1, event.colour)

    def observe(self, error: float) -> None:
        """Do nothing: the schedule is fixed."""

    def finished(self, epoch: int) -> bool:
        """Tell whether the epochs are over."""
        return epoch >= self._epochs

    def state_dict(self) -> dict[str, float]:
        """Return an empty dictionary: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Do nothing: there is no state."""


class Plateau:
    """The paper's rule: divide the rate by 10 when the validation error stops improving.

    That happens three times (`drops`); training stops when the error stops improving once more.
    """

    def __init__(self, lr: float, epochs: int, patience: int, drops: int = 3) -> None:
        """Start at `lr`; `patience` epochs without a new best error are a plateau. Training ends after `epochs` in any case."""
        self._lr, self._epochs, self._patience, self._max_drops = lr, epochs, patience, drops
        self._best, self._waited, self._drops = float("inf"), 0, 0

    def phase(self, epoch: int) -> Phase:  # noqa: ARG002  (the epoch does not matter here)
        """Return the phase whose learning rate follows the drops so far."""
        return Phase(self._lr / 10 ** min(self._drops, self._max_drops))

    def observe(self, error: float) -> None:
        """Count the epochs since the best error; after `patience` epochs, drop the rate."""
        if error < self._best:
            self._best, self._waited = error, 0
            return
        self._waited += 1
        if self._waited >= self._patience:
            self._drops, self._waited = self._drops + 1, 0

    def finished(self, epoch: int) -> bool:
        """Tell whether the last rate has reached its plateau, or the epochs are over."""
        return epoch >= self._epochs or self._drops > self._max_drops

    def state_dict(self) -> dict[str, float]:
        """Return the best error and the two counts."""
        return {"best": self._best, "waited": self._waited, "drops": self._drops}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a state that `state_dict` returned."""
        self._best, self._waited, self._drops = float(state["best"]), int(state["waited"]), int(state["drops"])
