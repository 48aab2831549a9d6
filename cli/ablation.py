"""The cells of `alextrain ablate`: which runs they are, running them, and their table."""

import itertools
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from types import FrameType
from typing import Any

from alexprep.pipeline import DataError
from alexprep.pipeline.storage import published

from .common import Bar, say
from .runs import RunFolder
from .safety import REQUEUE, SIGNALS, STOPPED
from .settings import MAY_CHANGE, Settings, collect, typed

# What the paper switches off, one at a time: settings, and by how much the top-1 / top-5 error changed in the paper and in its authors' logs.
PAPER: dict[str, tuple[dict[str, Any], str, str]] = {
    "baseline": ({}, "", ""),
    "no-norm": ({"norm": False}, "+1.4 / +1.2", "+1.37 / +1.15"),
    "no-overlap": ({"overlap": False}, "+0.4 / +0.3", "+0.39 / +0.30"),
    "no-exchange": ({"exchange": False}, "", "+1.2 / +1.1"),
    "one-gpu": ({"preset": "one-gpu"}, "+1.7 / +1.2", "+1.70 / +1.23"),
    "no-colour": ({"colour": 0.0, "divide": 1.0}, "over +1", ""),
    "no-dropout": ({"dropout": False}, '"substantial overfitting"', ""),
    "tanh": ({"activation": "tanh"}, "", ""),
}


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str  # of its row
    settings: Settings
    folder: RunFolder

    @property
    def label(self) -> str:
        """What to call it."""
        return f"{self.name}, seed {self.settings.seed}"

    def finished(self) -> bool:
        """Tell whether its run has come to its results; DataError if the folder holds a run of other settings."""
        if not self.folder.begun():
            return False
        stored = self.folder.settings()
        other = [name for name, value in asdict(self.settings).items() if getattr(stored, name) != value and name not in MAY_CHANGE]
        other += [name for name in ("lr", "steps", "until") if getattr(stored, name) != getattr(self.settings, name)]
        if other:
            said = ", ".join(f"{name} {getattr(stored, name)} instead of {getattr(self.settings, name)}" for name in other)
            raise DataError(f"{self.folder.directory} holds a run of other settings ({said}): choose another --out")
        return any(row["event"] == "result" for row in self.folder.rows())


def study(base: Settings, only: Sequence[str]) -> dict[str, Settings]:
    """Return the rows of the paper's table; ValueError for a row that there is not."""
    unknown = sorted(set(only) - set(PAPER))
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(PAPER)}")
    return {name: typed(asdict(base) | changes) for name, (changes, _, _) in PAPER.items() if not only or name in only or name == "baseline"}


def grid(base: Settings, axes: Sequence[str]) -> dict[str, Settings]:
    """Return every combination of such axes as "norm=true,false", the first of each first; ValueError for one that cannot be."""
    values: list[list[str]] = []
    for axis in axes:
        name, equals, listed = axis.partition("=")
        words = [word.strip() for word in listed.split(",") if word.strip()]
        if not equals or not words or name.strip() == "seed":
            raise ValueError(f"--vary takes key=value,value,... of any setting but the seed (--seeds), got {axis!r}")
        values.append([f"{name.strip()}={word}" for word in words])
    rows = {}
    for combination in itertools.product(*values):
        name = ",".join(combination).replace("/", "-")
        rows[name] = typed(asdict(base) | collect(None, None, {}, combination))
    return rows


def cells(rows: Mapping[str, Settings], seeds: int, out: Path) -> list[Cell]:
    """Return a run for each row and seed, all rows' first seed first."""
    return [
        Cell(name, replace(row, seed=row.seed + seed), RunFolder(out / name / f"seed-{row.seed + seed}"))
        for seed in range(seeds)
        for name, row in rows.items()
    ]


@dataclass
class Job:
    """Runs cells as processes of their own, several at a time."""

    data: Path
    arguments: Sequence[str]  # of every run, such as --device
    at_once: int = 1
    gpus: int = 0  # of this machine, which the cells share
    stopped: str = ""  # the signal that asked for it
    failed: dict[str, str] = field(default_factory=dict)  # label -> why
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def run(self, todo: Sequence[Cell]) -> None:
        """Run them all; what fails is noted in `failed`, and the others go on."""
        bar = Bar("ablate", len(todo), "runs")
        places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(self.at_once):
            places.put(place)
        with self._listening(), tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(self.at_once) as pool:
            futures: dict[Future[None], Cell] = {pool.submit(self._run, cell, places, Path(folder)): cell for cell in todo}
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                bar.at(done, futures[future].label)
        bar.close()

    def _run(self, cell: Cell, places: "queue.SimpleQueue[int]", folder: Path) -> None:
        if self.stopped:
            return
        place = places.get()
        directory = cell.folder.directory
        directory.parent.mkdir(parents=True, exist_ok=True)
        config, log = folder / f"{threading.get_ident()}.toml", directory.with_suffix(".log")
        config.write_text(cell.settings.to_toml())
        begun = ["--resume"] if cell.folder.begun() else ["--config", str(config)]
        command = [sys.executable, "-c", "from alexprep.cli.train import main; main(prog_name='alextrain')", "run", str(self.data)]
        command += ["--out", str(directory), *begun, *self.arguments]
        threads = max(1, len(os.sched_getaffinity(0)) // self.at_once)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), STOPPED: str(folder / f"{place}-{threading.get_ident()}")}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _visible(place % self.gpus)
        try:
            with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
                self._running.add(process)
                code = process.wait()
                self._running.discard(process)
        finally:
            places.put(place)
        if code not in (0, REQUEUE):
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            self.failed[cell.label] = f"{last[0]} ({log})"
            say(f"{cell.label}: failed: {self.failed[cell.label]}")

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Hand SIGTERM and SIGUSR1 on to the runs, which stop with a checkpoint."""

        def take(number: int, _frame: FrameType | None) -> None:
            self.stopped = signal.Signals(number).name
            for process in list(self._running):
                process.send_signal(number)

        before = {number: signal.signal(number, take) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _visible(number: int) -> str:
    """Return the number-th of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names it."""
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[number] if number < len(given) else str(number)


def outcome(cell: Cell) -> dict[str, Any]:
    """Return what a finished run has come to: errors are shares of 1."""
    rows = cell.folder.rows()
    results = {row["views"]: row for row in rows if row["event"] == "result"}
    last: dict[str, Any] = next((row for row in reversed(rows) if row["event"] == "eval"), {})
    step = next(iter(results.values()))["step"]
    return {
        "seed": cell.settings.seed,
        "run": str(cell.folder.directory),
        "steps": step,
        "epochs": last.get("epoch"),
        "train_error": last.get("train_error"),
        **{f"{name}_{kind}": results[views][f"{kind}_error"] for views, name in ((10, "ten"), (1, "one")) for kind in ("top1", "top5")},
    }


def summary(done: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return a row for each name: its runs, and the change against the first name's with the same seed, in percent with its spread."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for cell in done:
        by_name.setdefault(cell.name, []).append(outcome(cell))
    first = {run["seed"]: run for run in next(iter(by_name.values()), [])}
    table = []
    for name, runs in by_name.items():
        row: dict[str, Any] = {"name": name, "runs": runs}
        for kind in ("ten_top1", "ten_top5", "one_top1", "one_top5", "train_error"):
            values = [100 * run[kind] for run in runs if run[kind] is not None]
            if values:
                row[kind] = {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None}
        for kind in ("ten_top1", "ten_top5"):
            changes = [100 * (run[kind] - first[run["seed"]][kind]) for run in runs if run["seed"] in first]
            if changes and runs[0]["run"] != first.get(runs[0]["seed"], {}).get("run"):
                row[f"change_{kind}"] = {"mean": mean(changes), "sd": stdev(changes) if len(changes) > 1 else None}
        _, row["paper"], row["logged"] = PAPER.get(name, ({}, "", ""))
        table.append(row)
    return table


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Return the table for people, in Markdown."""
    known = any(row["paper"] or row["logged"] for row in table)
    head = ["", "seeds", "top-1, ten views", "top-5, ten views", "training error", "change of top-1", "change of top-5"]
    head += ["the paper's change (top-1 / top-5)", "the authors' logs"] if known else []
    lines = [head]
    for row in table:
        measured = (_spread(row.get(kind), "") for kind in ("ten_top1", "ten_top5", "train_error"))
        changes = (_spread(row.get(kind), "+") for kind in ("change_ten_top1", "change_ten_top5"))
        lines.append([row["name"], str(len(row["runs"])), *measured, *changes, *((row["paper"], row["logged"]) if known else ())])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]]) + "\n"


def _spread(value: Mapping[str, float | None] | None, sign: str) -> str:
    if value is None:
        return ""
    return f"{value['mean']:{sign}.2f}" + ("" if value["sd"] is None else f" ± {value['sd']:.2f}")


def write_table(out: Path, table: Sequence[Mapping[str, Any]]) -> Path:
    """Publish ablation.md; return its path."""
    path = out / "ablation.md"
    with published(path) as file:
        file.write(markdown(table).encode())
    return path
