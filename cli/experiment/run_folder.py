"""The folder of a run: config.toml, metrics.jsonl, last.pt, best.pt, report.html.

A run writes nowhere else.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from alexprep.model.events import RunEvent, Started, StepLog, Validation, from_row, last_start
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.shards.stats import Stats
from alexprep.pipeline.storage.files import lock, published, remove_partials, write_array

from .checkpoint import LAST, write_checkpoint
from .config import RunConfig, resolve

CONFIG, METRICS, KERNELS = "config.toml", "metrics.jsonl", "kernels"
PREDICTIONS = "predictions.parquet"
MOST_METRICS = 1 << 30  # maximum bytes; a run of ImageNet has at most 20 million
# factor between the steps of two kept frames of the kernels: 25 frames in a run of ImageNet
KERNELS_GROWTH = 1.3


class RunFolder:
    """The files of one run."""

    def __init__(self, directory: Path) -> None:
        """Take the folder, which need not exist."""
        self.directory = directory

    @classmethod
    def new(cls, directory: Path | None) -> "RunFolder":
        """Make `directory`, or the next free runs/<n>; DataError if it holds a run's files."""
        if directory is None:
            return cls(_next_folder())
        directory.mkdir(parents=True, exist_ok=True)
        if cls(directory).begun():
            raise DataError(f"{directory} already holds a run: --resume continues it; or choose another --out")
        if (directory / METRICS).exists() or any(directory.glob("*.pt")):
            raise DataError(f"{directory} holds a run's files, but no {CONFIG}: restore that, or choose another --out")
        return cls(directory)

    @classmethod
    def existing(cls, directory: Path | None) -> "RunFolder":
        """Return the run in `directory`, or the newest of runs/<n>; DataError if there is none."""
        if directory is None:
            numbered = [path for path in Path("runs").glob("*") if path.name.isdecimal()]
            if not numbered:
                raise DataError("there is no run in runs/ to resume; start one without --resume")
            directory = max(numbered, key=lambda path: int(path.name))
        if not cls(directory).begun():
            raise DataError(f"{directory} holds no run (no {CONFIG}): give a run's folder, or start one with alextrain run, without --resume")
        return cls(directory)

    def begun(self) -> bool:
        """Return whether a run has been started here."""
        return (self.directory / CONFIG).is_file()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing here."""
        with lock(self.directory):
            remove_partials(self.directory)
            yield

    def settings(self) -> RunConfig:
        """Return the settings in config.toml; DataError if they are invalid."""
        path = self.directory / CONFIG
        try:
            return resolve(None, path, {}, ())
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error

    def write_settings(self, settings: RunConfig) -> None:
        """Publish config.toml."""
        with published(self.directory / CONFIG) as file:
            file.write(settings.to_toml().encode())

    @property
    def metrics(self) -> Path:
        """Path of metrics.jsonl."""
        return self.directory / METRICS

    def events(self) -> list[RunEvent]:
        """Return the events of metrics.jsonl. Lines that were cut off by a kill, or hold no known event, are skipped."""
        return [event for _, event in self._lines()]

    def _lines(self) -> Iterator[tuple[dict[str, Any], RunEvent]]:
        path = self.directory / METRICS
        if not path.is_file():
            return
        if path.stat().st_size > MOST_METRICS:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes, more than {MOST_METRICS:,}: not a file of a run")
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            event = from_row(row)
            if event is not None:
                yield row, event

    def start(self) -> Started | None:
        """Return the last Started event; None if there is none yet."""
        return last_start(self.events())

    def rewind(self, step: int, validated: int) -> list[RunEvent]:
        """Drop what a run resumed at `step` writes again; return the remaining events.

        Dropped are the rows after `step` and after epoch `validated`, a finished run's results, its
        predictions, and the kernels of later steps.
        """

        def stays(event: RunEvent) -> bool:
            if isinstance(event, Validation):
                return event.epoch <= validated
            return isinstance(event, Started | StepLog) and event.step <= step

        kept = [(row, event) for row, event in self._lines() if stays(event)]
        with published(self.directory / METRICS) as file:
            file.write("".join(json.dumps(row) + "\n" for row, _ in kept).encode())
        later = [path for number, path in self.kernels().items() if number > step]
        for path in (*later, self.directory / PREDICTIONS):  # the run writes them again
            path.unlink(missing_ok=True)
        return [event for _, event in kept]

    def log(self, event: RunEvent) -> None:
        """Append an event to metrics.jsonl."""
        with (self.directory / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event.row()) + "\n")

    def save(self, name: str, state: dict[str, Any], settings: RunConfig, classes: tuple[str, ...], stats: Stats, plan: str) -> None:
        """Publish the checkpoint <name>.pt."""
        write_checkpoint(self.directory / f"{name}.pt", state, settings, classes, stats, plan)

    def keep_kernels(self, step: int, kernels: torch.Tensor | None, *, always: bool = False) -> None:
        """Keep the first layer's kernels [c,3,h,w] as kernels/step-<n>.npy (float16).

        They are kept if there are none yet, if the step is at least KERNELS_GROWTH times that of
        the last ones, or if `always`.

        Write errors are ignored; the report shows one frame fewer.
        """
        last = max(self.kernels(), default=-1)
        if kernels is None or not (always or last < 0 or step >= KERNELS_GROWTH * max(last, 1)):
            return
        try:
            (self.directory / KERNELS).mkdir(exist_ok=True)
            write_array(self.directory / KERNELS / f"step-{step}.npy", kernels.half().numpy())
        except OSError:
            return

    def kernels(self) -> dict[int, Path]:
        """Return the files of the kept kernels by step, in ascending order."""
        names = {
            int(match[1]): path for path in (self.directory / KERNELS).glob("*.npy") if (match := re.fullmatch(r"step-([0-9]+)\.npy", path.name))
        }
        return dict(sorted(names.items()))

    def keep(self, step: int, most: int) -> None:
        """Keep a copy of last.pt as step-<n>.pt; delete all such copies but the `most` newest.

        Copies of later steps are deleted too: the run was resumed from before them.
        """
        directory = self.directory
        here = directory / f"step-{step}.pt"
        try:
            with published(here) as file, (directory / LAST).open("rb") as last:
                shutil.copyfileobj(last, file)
            numbered = {int(match[1]): path for path in directory.glob("step-*.pt") if (match := re.fullmatch(r"step-([0-9]+)\.pt", path.name))}
            kept = sorted(number for number in numbered if number <= step)[-most:]
            for number in set(numbered) - set(kept):
                numbered[number].unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"cannot write {here}: {error.strerror}; {LAST} was written") from error


def _next_folder() -> Path:
    """Make the next runs/<n>; two runs that start at the same time get different folders."""
    while True:
        number = 1 + max((int(path.name) for path in Path("runs").glob("*") if path.name.isdecimal()), default=0)
        directory = Path("runs") / str(number)
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        return directory
