"""Train and compare a grid of settings and seeds."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from alexprep.pipeline import DataError
from alexprep.pipeline.preparation.job import Part

from ..config import RunConfig
from ..splits import validation_split
from ..validate import check_data
from .grid import Trial, trials
from .runner import AblationRunner, TrialEnded
from .table import summary, write_table


class Ablation:
    """Trains every row with every seed, each trial in its own process.

    Iterate over it, then read `table()`:

        rows = study({"epochs": 10}, only=["no-norm"])     # or grid({}, ["norm=true,false"])
        job = Ablation(rows, data="shards", out="ablation", seeds=3)
        for trial in job:
            print(trial.label, trial.failure)

    Finished trials are not run again; begun ones continue from their checkpoint.
    """

    def __init__(
        self,
        rows: Mapping[str, RunConfig],
        data: str | Path,
        out: str | Path = "ablation",
        *,
        seeds: int = 1,
        at_once: int = 1,
        part: Part | None = None,
    ) -> None:
        """Check that every row can be trained; `part` is this machine's share of the trials.

        ValueError for invalid settings; DataError for data that cannot be trained on, or a folder
        with runs of other settings.
        """
        self.at_once, self._out, self._base = at_once, Path(out), next(iter(rows))
        if any(row.network.model for row in rows.values()):
            raise ValueError("ablate cannot train a network of your own: leave out the setting model")
        for row in rows.values():
            if validation_split(check_data(Path(data), row, 1)) is None:
                raise DataError(f"{data} has neither val nor test: there would be nothing to compare")
        self.trials = trials(rows, seeds, self._out)
        self.todo = [trial for number, trial in enumerate(self.trials) if (part is None or part.has(number)) and not trial.finished()]
        self._runner = AblationRunner(Path(data), at_once, torch.cuda.device_count())

    def __iter__(self) -> Iterator[TrialEnded]:
        """Train the unfinished trials; yield each as it ends."""
        return self._runner.run(self.todo)

    @property
    def stopped(self) -> str:
        """Name of the signal that stopped the job; empty if none did."""
        return self._runner.stopped

    @property
    def failed(self) -> dict[str, str]:
        """Labels of the trials that failed, and why."""
        return self._runner.failed

    def finished(self) -> list[Trial]:
        """Return the trials that have results."""
        return [trial for trial in self.trials if trial.finished()]

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each name: its finished runs, means and standard deviations.

        Each row also has the change against the first row, in percentage points.
        """
        return summary(self.finished(), self._base)

    def write_table(self) -> Path:
        """Publish ablation.md, with the paper's numbers beside; return its path."""
        return write_table(self._out, self.table())
