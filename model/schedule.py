"""When the learning rate drops, and what else changes on the way: an epoch's phase is a value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Phase:
    """What holds during an epoch."""

    lr: float
    conv1: float = 1.0  # factor on the first layer's learning rate; 0 freezes it
    colour: bool = True  # whether PCA colour is on


@runtime_checkable
class Schedule(Protocol):
    """Gives each epoch its phase."""

    def phase(self, epoch: int) -> Phase:
        """Return what holds in `epoch` (from 0)."""

    def observe(self, error: float) -> None:
        """Take the validation error (a share) after an epoch."""

    def finished(self, epoch: int) -> bool:
        """Tell whether training ends before `epoch`."""

    def state_dict(self) -> dict[str, float]:
        """Return all that `observe` has learnt."""

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from there."""


# The authors' script, in epochs of 95: (from epoch, 10 ** drops, factor on conv1, PCA colour).
_SCRIPT_EPOCHS = 95
_SCRIPT = ((0, 0, 1.0, True), (22, 1, 1.0, True), (49, 2, 1.0, True), (66, 2, 0.1, False), (73, 2, 0.0, False), (81, 3, 0.0, False))


class Scripted:
    """The schedule that the authors' script ran through; with another number of epochs its events keep their share of the run."""

    def __init__(self, lr: float, epochs: int) -> None:
        """Start at `lr` and end after `epochs`."""
        self._lr, self._epochs = lr, epochs

    def phase(self, epoch: int) -> Phase:
        """Return the last event that has begun."""
        _, drops, conv1, colour = [event for event in _SCRIPT if round(event[0] * self._epochs / _SCRIPT_EPOCHS) <= epoch][-1]
        return Phase(self._lr / 10**drops, conv1, colour)

    def observe(self, error: float) -> None:
        """Take no notice: the script is fixed."""

    def finished(self, epoch: int) -> bool:
        """Tell whether the script has ended."""
        return epoch >= self._epochs

    def state_dict(self) -> dict[str, float]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take nothing."""


class Fixed:
    """Divide by 10 at given shares of the run."""

    def __init__(self, lr: float, epochs: int, drops: Sequence[float]) -> None:
        """Start at `lr`; `drops` are shares of `epochs`, 0 to 1."""
        self._lr, self._epochs, self._drops = lr, epochs, drops

    def phase(self, epoch: int) -> Phase:
        """Return the learning rate after the drops that lie behind."""
        return Phase(self._lr / 10 ** sum(epoch >= round(share * self._epochs) for share in self._drops))

    def observe(self, error: float) -> None:
        """Take no notice: the drops are fixed."""

    def finished(self, epoch: int) -> bool:
        """Tell whether the epochs are over."""
        return epoch >= self._epochs

    def state_dict(self) -> dict[str, float]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take nothing."""


class Plateau:
    """The paper's text: divide by 10 when the validation error stops improving, three times; stop when it does so again."""

    def __init__(self, lr: float, epochs: int, patience: int, drops: int = 3) -> None:
        """Start at `lr`; `patience` epochs without a new best error are a plateau. Ends after `epochs` in any case."""
        self._lr, self._epochs, self._patience, self._max_drops = lr, epochs, patience, drops
        self._best, self._waited, self._drops = float("inf"), 0, 0

    def phase(self, epoch: int) -> Phase:  # noqa: ARG002  (the epoch does not matter here)
        """Return the learning rate after the drops so far."""
        return Phase(self._lr / 10 ** min(self._drops, self._max_drops))

    def observe(self, error: float) -> None:
        """Count the epochs since the best error."""
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
        """Continue from there."""
        self._best, self._waited, self._drops = float(state["best"]), int(state["waited"]), int(state["drops"])
