"""Render one run or several as one self-contained HTML file, from the templates in page/.

In: `RunView`, what a run has recorded. Out: the page as HTML, or its curves as JSON.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..evaluation.analysis import Calibration
from ..evaluation.evaluator import interval
from ..events import Measured, RunEvent, Started, StepLog, Validation, last_start, of_kind

# Maximum points of the curves of all runs together; with more, neighbouring points are averaged
MOST_ROWS = 150_000
# Errors with ten views of ILSVRC-2012's val: the paper's (table 2, "1 CNN"), and how far a faithful
# run may be off (percent)
PAPER = {"top1_error": (40.7, 0.3), "top5_error": (18.2, 0.2)}
# Values of "step" rows that are drawn as curves, and their dtypes in the page
CURVES = {"loss": "<f2", "error": "<f2", "images_per_s": "<f4", "wait_share": "<f2"}


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with its captions."""

    image: UInt8[np.ndarray, "h w 3"]
    alt: str
    lines: tuple[str, ...] = ()
    bars: tuple[tuple[str, float, bool], ...] = ()  # class, probability, whether it is the true one


@dataclass(frozen=True, eq=False)
class RunView:
    """What the page shows of a run; empty parts are left out."""

    name: str
    events: Sequence[RunEvent]  # of metrics.jsonl
    facts: dict[str, str] = field(default_factory=dict)  # beside those that the events tell
    marks: tuple[tuple[int, str], ...] = ()  # step, what happened
    # by step: figure 3, and the chroma of each tower
    kernels: dict[int, tuple[UInt8[np.ndarray, "h w 3"], list[float]]] = field(default_factory=dict)
    # a record, then the views that training takes from it
    samples: tuple[tuple[Picture, ...], ...] = ()
    confused: tuple[tuple[str, tuple[Picture, ...]], ...] = ()
    mistakes: tuple[Picture, ...] = ()
    guesses: tuple[Picture, ...] = ()  # figure 4, left
    # figure 4, right: a query, then its nearest training images
    neighbours: tuple[tuple[Picture, ...], ...] = ()
    calibration: Calibration | None = None
    notes: tuple[str, ...] = ()  # what is missing, and why


def render(runs: Sequence[RunView], *, live: bool = False) -> str:
    """Return the page; with `live`, it polls data.json beside it for new data (`curve_data`)."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("alexprep.model.report", "page"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"picture": _picture, "share": lambda value: f"{100 * value:.2f}"}
    parts = {name: files("alexprep.model.report").joinpath("page", name).read_text(encoding="utf-8") for name in _EMBEDDED}
    return environment.get_template("report.html").render(
        title=f"AlexNet, run {runs[0].name}" if len(runs) == 1 else f"AlexNet, {len(runs)} runs",
        runs=runs,
        heads=[_head(run) for run in runs],
        differences=_differences(runs),
        compared=any("paper" in error for run in runs for head in _head(run) for error in head["errors"]),
        facts=[_facts(run) for run in runs],
        data=_json(curve_data(runs)),
        embedded=parts,
        live=live,
    )


_EMBEDDED = ("uPlot.iife.min.js", "uPlot.min.css", "report.css", "report.js")


def curve_data(runs: Sequence[RunView]) -> dict[str, Any]:
    """Return what the page's script draws, as values for JSON. These are the curves, the evaluations, the marks and the kernels of each run."""
    most = max(2, MOST_ROWS // max(1, len(runs)))
    return {"runs": [_curves(run, most) for run in runs]}


def _curves(run: RunView, most: int) -> dict[str, Any]:
    steps = of_kind(run.events, StepLog)
    width = max(1, -(-len(steps) // most))
    ends = [steps[min(i + width, len(steps)) - 1] for i in range(0, len(steps), width)]
    columns = {}
    for name, kind in CURVES.items():
        values = np.array([getattr(row, name) for row in steps], np.float64)
        if width > 1:
            values = np.add.reduceat(values, range(0, len(values), width)) / np.diff([*range(0, len(values), width), len(values)])
        columns[name] = base64.b64encode(values.clip(-6e4, 6e4 if kind == "<f2" else 3e38).astype(kind).tobytes()).decode()
    return {
        "name": run.name,
        "averaged": width,
        "steps": _runs_of([row.step for row in ends]),
        "lr": _changes([(row.step, row.lr) for row in steps]),
        "columns": columns,
        "evals": [{name: getattr(one, name) for name in _EVALUATED} for one in of_kind(run.events, Validation)],
        "marks": [list(mark) for mark in run.marks],
        "results": len(of_kind(run.events, Measured)),
        "kernels": [{"step": step, "picture": _picture(pixels, "PNG"), "chroma": chroma} for step, (pixels, chroma) in run.kernels.items()],
    }


_EVALUATED = ("step", "epoch", "loss", "top1_error", "top5_error", "train_error")


def _runs_of(steps: Sequence[int]) -> list[list[int]]:
    """Return integers, compressed to runs of equal stride: [first, stride, count] each."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and runs[-1][2] == 1 and step != runs[-1][0]:
            runs[-1][1:] = [step - runs[-1][0], 2]
        elif runs and runs[-1][2] > 1 and step == runs[-1][0] + runs[-1][1] * runs[-1][2]:
            runs[-1][2] += 1
        else:
            runs.append([step, 0, 1])
    return runs


def _changes(values: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the pairs at which the value changes, and the last pair."""
    kept = [pair for i, pair in enumerate(values) if i == 0 or pair[1] != values[i - 1][1]]
    return kept + ([values[-1]] if values and kept[-1] != values[-1] else [])


def _head(run: RunView) -> list[dict[str, Any]]:
    """Return the results with their 95 % intervals, in percent. Results of ten views on 1000 classes also have the paper's value and band."""
    heads = []
    start = last_start(run.events)
    for result in of_kind(run.events, Measured):
        errors = []
        for key, name in (("top1_error", "top-1"), ("top5_error", "top-5")):
            value = 100 * getattr(result, key)
            low, high = (100 * end for end in interval(value / 100, result.count))
            one: dict[str, Any] = {"name": name, "value": value, "low": low, "high": high}
            if result.views == 10 and start is not None and start.classes == 1000:
                middle, reach = PAPER[key]
                left, right = min(low, middle - reach) - 1, max(high, middle + reach) + 1
                scale = 100 / (right - left)
                one |= {"paper": middle, "reach": reach, "inside": middle - reach <= value <= middle + reach}
                one["band"] = {"left": (middle - reach - left) * scale, "width": 2 * reach * scale}
                one["own"] = {"left": (low - left) * scale, "width": (high - low) * scale, "at": (value - left) * scale}
            errors.append(one)
        heads.append({"views": "ten views averaged" if result.views == 10 else "centre view", "count": result.count, "errors": errors})
    return heads


def _differences(runs: Sequence[RunView]) -> list[tuple[str, list[str], bool]]:
    """Return (setting, its value in each run, whether they differ), those that differ first."""
    settings = [start.settings if (start := last_start(run.events)) else {} for run in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    table = [(name, [str(one.get(name, "")) for one in settings]) for name in names]
    return sorted(((name, values, len(set(values)) > 1) for name, values in table), key=lambda row: not row[2])


def _facts(run: RunView) -> dict[str, str]:
    start, steps = last_start(run.events), of_kind(run.events, StepLog)
    facts = _machine(start) if start is not None else {}
    if steps:
        facts["steps"] = f"{steps[-1].step:,}"
        facts["images a second"] = f"{np.median([one.images_per_s for one in steps]):,.0f} (median)"
        facts["time spent waiting for data"] = f"{100 * np.median([one.wait_share for one in steps]):.1f} % (median)"
    return facts | run.facts


def _machine(start: Started) -> dict[str, str]:
    return {
        "parameters": f"{start.parameters:,}",
        "multiply-adds an image": f"{start.multiply_adds:,}" if start.multiply_adds else "not counted",
        "classes": f"{start.classes:,}",
        "device": f"{start.device}, {start.ranks} rank{'s' if start.ranks > 1 else ''}",
        "versions": ", ".join(f"{name} {value}" for name, value in start.versions.items()),
    }


def _json(value: Any) -> str:  # noqa: ANN401  (JSON is anything)
    """Return JSON that is safe inside a script element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _picture(pixels: UInt8[np.ndarray, "h w 3"], kind: str = "JPEG", side: int = 0) -> str:
    """Return a data URL of the pixels, reduced to at most `side` a side (0: not reduced)."""
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if side:
        image.thumbnail((side, side))
    image.save(buffer, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
