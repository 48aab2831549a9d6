"""Choose the trials of `alextrain ablate`."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexprep.model.events import Measured, of_kind
from alexprep.pipeline import DataError

from ..config import RunConfig, collect, completed
from ..run_folder import RunFolder

# Settings that the paper switches off, one at a time, and the change of the top-1 / top-5 error in
# the paper and in its authors' logs.
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
# Settings that do not change the result, except for rounding: a finished run with other values of
# them need not be trained again.
ALIKE = (
    *(
        "log_steps",
        "checkpoint_steps",
        "checkpoint_minutes",
        "keep",
        "hang_seconds",
        "eval_batch_size",
        "threads",
        "prefetch",
        "server_patience",
        "loggers",
    ),
    *("compile", "accumulate", "parallel"),
)


@dataclass(frozen=True)
class Trial:
    """One run of the grid."""

    name: str  # name of its row
    settings: RunConfig
    folder: RunFolder

    @property
    def label(self) -> str:
        """Name for people: the row and the seed."""
        return f"{self.name}, seed {self.settings.data.seed}"

    def finished(self) -> bool:
        """Return whether its run has results; DataError if the folder's run has other settings."""
        if not self.folder.begun():
            return False
        stored, wanted = self.folder.settings().flat(), self.settings.flat()
        other = [name for name, value in wanted.items() if stored[name] != value and name not in ALIKE]
        if other:
            said = ", ".join(f"{name} {stored[name]} instead of {wanted[name]}" for name in other)
            raise DataError(f"{self.folder.directory} holds a run of other settings ({said}): choose another --out")
        return {result.views for result in of_kind(self.folder.events(), Measured)} >= {1, 10}


def study(given: Mapping[str, Any], only: Sequence[str]) -> dict[str, RunConfig]:
    """Return the rows of the paper's table, each with one thing switched off. ValueError for an unknown row, or one that changes nothing."""
    unknown = sorted(set(only) - set(PAPER))
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(PAPER)}")
    base = completed(dict(given))
    if base.network.preset not in ("source", "paper"):
        raise ValueError(f"--study needs the preset source or paper, got {base.network.preset}: use --vary for others")
    wanted = [name for name in PAPER if name == "baseline" or name in only or (not only and (name != "one-gpu" or base.network.preset == "source"))]
    if base.network.preset != "source" and "one-gpu" in wanted:
        raise ValueError("the row one-gpu is half of the preset source, and the paper's text has no such net: leave it out of --only")
    rows = {name: completed({**given, **PAPER[name][0]}) for name in wanted}
    same = [name for name, row in rows.items() if name != "baseline" and row == base]
    if same:
        raise ValueError(f"{', '.join(same)} would be the baseline itself: what it switches off is off already")
    return rows


def grid(given: Mapping[str, Any], axes: Sequence[str]) -> dict[str, RunConfig]:
    """Return every combination of axes such as "norm=true,false"; the first has each first value. ValueError for an invalid axis or setting."""
    values: dict[str, list[str]] = {}
    for axis in axes:
        name, equals, listed = (part.strip() for part in axis.partition("="))
        words = [word.strip() for word in listed.split(",") if word.strip()]
        if not equals or not words or name == "seed" or name in values:
            raise ValueError(f"--vary takes key=value,value,... of any setting but the seed (--seeds), each once; got {axis!r}")
        values[name] = words
    rows: dict[str, RunConfig] = {}
    for chosen in itertools.product(*values.values()):
        combination = tuple(f"{name}={word}" for name, word in zip(values, chosen, strict=True))
        name = ",".join(combination).replace("/", "-")
        if name in rows:
            raise ValueError(f"--vary gives {name} twice")
        rows[name] = completed({**given, **collect(None, None, {}, combination)})
    return rows


def trials(rows: Mapping[str, RunConfig], seeds: int, out: Path) -> list[Trial]:
    """Return a trial for each row and seed; the first seed of all rows comes first."""
    return [
        Trial(name, row.changed(seed=row.data.seed + seed), RunFolder(out / name / f"seed-{row.data.seed + seed}"))
        for seed in range(seeds)
        for name, row in rows.items()
    ]
