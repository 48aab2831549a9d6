"""Make the table of a grid's finished runs, beside the paper's numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from alexprep.model.events import Measured, Validation, of_kind
from alexprep.pipeline.storage.files import published

from .grid import PAPER, Trial


def outcome(trial: Trial) -> dict[str, Any]:
    """Return the results of a finished run; errors are fractions."""
    events = trial.folder.events()
    results = {result.views: result for result in of_kind(events, Measured)}
    last = next(reversed(of_kind(events, Validation)), None)
    return {
        "seed": trial.settings.data.seed,
        "run": str(trial.folder.directory),
        "steps": next(iter(results.values())).step,
        "epochs": last and last.epoch,
        "train_error": last and last.train_error,
        **{f"{name}_{kind}": getattr(results[views], f"{kind}_error") for views, name in ((10, "ten"), (1, "one")) for kind in ("top1", "top5")},
    }


def summary(done: Sequence[Trial], base: str) -> list[dict[str, Any]]:
    """Return a row for each name: its runs, and the mean and standard deviation of their errors.

    Each row also has the change against the runs of the row `base` with the same seeds. Errors and
    changes are in percent.
    """
    by_name: dict[str, list[dict[str, Any]]] = {}
    for trial in done:
        by_name.setdefault(trial.name, []).append(outcome(trial))
    first = {run["seed"]: run for run in by_name.get(base, [])}
    table = []
    for name, runs in by_name.items():
        row: dict[str, Any] = {"name": name, "runs": runs}
        for kind in ("ten_top1", "ten_top5", "one_top1", "one_top5", "train_error"):
            values = [100 * run[kind] for run in runs if run[kind] is not None]
            if values:
                row[kind] = {"mean": mean(values), "sd": stdev(values) if len(values) > 1 else None}
        for kind in ("ten_top1", "ten_top5"):
            changes = [100 * (run[kind] - first[run["seed"]][kind]) for run in runs if run["seed"] in first]
            if changes and name != base:
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
    text = ["| " + " | ".join(trial.ljust(width) for trial, width in zip(line, widths, strict=True)) + " |" for line in lines]
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
