"""The page of a run: one self-contained HTML file, made from its metrics, its weights and a picture of its samples."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from .figures import Curve, curves, kernels

Rows = Sequence[dict[str, Any]]


def render(title: str, rows: Rows, conv1: Float[Tensor, "c 3 k k"] | None, samples: UInt8[np.ndarray, "h w 3"], facts: dict[str, str]) -> str:
    """Return the page.

    rows     of metrics.jsonl: "start", "step", "eval" and "result" events
    conv1    weights of the first layer, if it has kernels that one can look at
    samples  a sheet of augmented images
    facts    further lines for the table of the run, such as where its data lies
    """
    from jinja2 import Environment, PackageLoader

    start = next((row for row in reversed(rows) if row["event"] == "start"), {})
    steps = [row for row in rows if row["event"] == "step"]
    settings = start.get("settings", {})
    environment = Environment(loader=PackageLoader("alexprep.model", ""), autoescape=True)
    return environment.get_template("report.html").render(
        title=title,
        results=[row for row in rows if row["event"] == "result"],
        settings=settings,
        facts=_facts(start, steps) | facts,
        plots=_plots(rows, steps),
        kernels="" if conv1 is None else _picture(kernels(conv1), "PNG"),
        samples=_picture(samples, "JPEG"),
    )


def _facts(start: dict[str, Any], steps: Rows) -> dict[str, str]:
    facts = {}
    if start:
        facts = {
            "parameters": f"{start['parameters']:,}",
            "multiply-adds an image": f"{start['multiply_adds']:,}",
            "classes": f"{start['classes']:,}",
            "device": f"{start['device']}, {start['ranks']} rank{'s' if start['ranks'] > 1 else ''}",
            "versions": ", ".join(f"{name} {value}" for name, value in start["versions"].items()),
        }
    if steps:
        facts["steps"] = f"{steps[-1]['step']:,}"
        facts["images a second"] = f"{_median(steps, 'images_per_s'):,.0f} (median)"
        facts["time spent waiting for data"] = f"{100 * _median(steps, 'wait_share'):.1f} % (median)"
    return facts


def _median(rows: Rows, name: str) -> float:
    return float(np.median([row[name] for row in rows]))


def _plots(rows: Rows, steps: Rows) -> list[tuple[str, str]]:
    """Return (caption, SVG) of what there is to plot."""
    plots = []
    evaluations = [row for row in rows if row["event"] == "eval"]
    if steps:
        x = [row["step"] for row in steps]
        loss: list[Curve] = [("training batch", *_thinned(x, [row["loss"] for row in steps]))]
        if evaluations:
            loss.append(("validation, centre view", [row["step"] for row in evaluations], [row["loss"] for row in evaluations]))
        plots.append(("Loss", curves(loss, x="step", y="cross-entropy", log=True)))
    if evaluations:
        x = [row["epoch"] for row in evaluations]
        errors: list[Curve] = [(name, x, [100 * row[key] for row in evaluations]) for name, key in (("top-1", "top1_error"), ("top-5", "top5_error"))]
        plots.append(("Validation error, centre view", curves(errors, x="epoch", y="error, %")))
    if steps:
        x = [row["step"] for row in steps]
        plots.append(("Learning rate", curves([("lr", *_thinned(x, [row["lr"] for row in steps]))], x="step", y="learning rate", log=True)))
        plots.append(("Throughput", curves([("images/s", *_thinned(x, [row["images_per_s"] for row in steps]))], x="step", y="images a second")))
    return plots


def _thinned(x: Sequence[float], y: Sequence[float], most: int = 1000) -> tuple[list[float], list[float]]:
    """Return at most `most` points, each the mean of a run of neighbours, so that a long run's page stays small."""
    width = -(-len(x) // most)
    starts = range(0, len(x), width)
    return [x[min(i + width, len(x)) - 1] for i in starts], [float(np.mean(y[i : i + width])) for i in starts]


def _picture(pixels: UInt8[np.ndarray, "h w 3"], kind: str) -> str:
    """Return a data URL of the pixels."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
