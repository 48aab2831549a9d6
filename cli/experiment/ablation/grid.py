"""The trials of `alextrain ablate`: which runs they are."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexprep.model.events import Measured, of_kind
from alexprep.pipeline import DataError

from ..config import RunConfig, collect, completed
from ..run_folder import RunFolder

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
# Other values of these give the same result, or the same but for rounding: a finished run need not be trained again for them.
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

    name: str  # of its row
    settings: RunConfig
    folder: RunFolder

    @property
    def label(self) -> str:
        """What to call it."""
        return f"{self.name}, seed {self.settings.data.seed}"

    def finished(self) -> bool:
        """Tell whether its run has come to its results; DataError if the folder holds a run of other settings."""
        if not self.folder.begun():
            return False
        stored, wanted = self.folder.settings().flat(), self.settings.flat()
        other = [name for name, value in wanted.items() if stored[name] != value and name not in ALIKE]
        if other:
            said = ", ".join(f"{name} {stored[name]} instead of {wanted[name]}" for name in other)
            raise DataError(f"{self.folder.directory} holds a run of other settings ({said}): choose another --out")
        return {result.views for result in of_kind(self.folder.events(), Measured)} >= {1, 10}


def study(given: Mapping[str, Any], only: Sequence[str]) -> dict[str, RunConfig]:
    """Return the rows of the paper's table, each with one thing off; ValueError for a row that there is not, or that changes nothing."""
    unknown = sorted(set(only) - set(PAPER))
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(PAPER)}")
    base = completed(dict(given))
    if base.network.preset not in ("source", "paper"):
        raise ValueError(f"--study is of the presets source and paper, not of {base.network.preset}: use --vary")
    wanted = [name for name in PAPER if name == "baseline" or name in only or (not only and (name != "one-gpu" or base.network.preset == "source"))]
    if base.network.preset != "source" and "one-gpu" in wanted:
        raise ValueError("the row one-gpu is half of the preset source: the paper's text has no such net")
    rows = {name: completed({**given, **PAPER[name][0]}) for name in wanted}
    same = [name for name, row in rows.items() if name != "baseline" and row == base]
    if same:
        raise ValueError(f"{', '.join(same)} would be the baseline itself: what it switches off is off already")
    return rows


def grid(given: Mapping[str, Any], axes: Sequence[str]) -> dict[str, RunConfig]:
    """Return every combination of such axes as "norm=true,false", the first of each first; ValueError for one that cannot be."""
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
            raise ValueError(f"--vary has {name} twice")
        rows[name] = completed({**given, **collect(None, None, {}, combination)})
    return rows


def trials(rows: Mapping[str, RunConfig], seeds: int, out: Path) -> list[Trial]:
    """Return a run for each row and seed, all rows' first seed first."""
    return [
        Trial(name, row.changed(seed=row.data.seed + seed), RunFolder(out / name / f"seed-{row.data.seed + seed}"))
        for seed in range(seeds)
        for name, row in rows.items()
    ]
