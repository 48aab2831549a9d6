"""Events of a run: those of the trainer, and those of the run itself."""

from dataclasses import dataclass
from pathlib import Path

from alexprep.model.events import Measured, RunEvent, Started, StepLog, Tick, Validation

__all__ = ["Event", "Finished", "Measured", "Notice", "RunEvent", "Started", "StepLog", "Stopped", "Tick", "Validation"]


@dataclass(frozen=True)
class Notice:
    """A sentence for people; `warning`: something did not work, and the run goes on."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop, and has written a checkpoint after `step` steps."""

    step: int
    reason: str  # name of the signal; empty: another rank was asked


@dataclass(frozen=True)
class Finished:
    """The run has finished; `report` is the path of its page, None if it has none."""

    step: int
    report: Path | None


Event = RunEvent | Notice | Stopped | Finished
