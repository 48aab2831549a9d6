"""Write the documents of an exported network: notes on preprocessing, and a model card."""

import json
from collections.abc import Sequence
from typing import Any

from alexprep.model.evaluation.evaluator import interval
from alexprep.model.events import Measured, Started
from alexprep.pipeline.errors import printable

from ..measuring.evaluate import Trained


def preprocessing(trained: Trained) -> str:
    """Return the notes on preprocessing, as Markdown."""
    size, crop, mean = trained.stats.mean_image.shape[0], trained.settings.data.crop, trained.settings.data.mean
    words = {
        "center": f"the centre {crop}x{crop} of the mean image of the training set, from every view",
        "pixel": f"the mean image of the training set at the view's own position; the network holds its centre {crop}x{crop}, for the centre view",
        "channel": "the mean of each channel over the training set",
        "none": "nothing",
    }[mean]
    corners = " (The measured errors subtract the mean image at each corner's own position, which differs slightly.)" if mean == "pixel" else ""
    return f"""# Input and output

`pixels`: float32 [batch, 3, {crop}, {crop}], RGB, 0 to 255, not scaled. `probabilities`: float32 [batch, {len(trained.classes)}], after softmax.

1. Decode to RGB; ignore the EXIF orientation.
2. Scale the shorter side to {size} pixels (area averaging to shrink, cubic to enlarge).
3. Cut out the central {size}x{size}, and of it the central {crop}x{crop}.

The network itself subtracts the mean: {words}. Do not subtract it, and do not divide by a standard deviation.

Ten views, as in the paper: the four corners and the centre {crop}x{crop} of the {size}x{size}, and their mirrors;
average the ten probabilities.{corners}
"""


def card(trained: Trained, start: Started | None, results: Sequence[Measured]) -> str:
    """Return a model card, filled from the run's "start" and "result" rows. Its head is YAML; the model index in it is JSON, a subset of YAML."""
    settings = trained.settings
    versions = ", ".join(f"{name} {value}" for name, value in (start.versions if start else {}).items())
    chosen = "\n".join(f"| {name} | {value} |" for name, value in settings.flat().items())
    classes = ", ".join(f"{label}: {json.dumps(printable(name), ensure_ascii=False)}" for label, name in enumerate(trained.classes))
    return f"""---
library_name: alexprep
pipeline_tag: image-classification
tags: [alexnet, image-classification]
model-index: {json.dumps(_index(trained, results))}
---

# {"AlexNet (2012)" if settings.alexnet else "A four-layer net"}, preset `{settings.network.preset}`

{len(trained.classes)} classes, {settings.network.width:g} times the preset's width, {trained.step:,} steps of {settings.data.batch_size} images.

## Results on held-out images

{_table(results)}

## Use

```python
from alexprep.model.networks.inference import load

model, config = load(".")       # this folder
probabilities = model(pixels)   # float32[batch, 3, {settings.data.crop}, {settings.data.crop}], RGB, 0 to 255
```

{preprocessing(trained).replace("# Input", "## Input")}
## Training

Trained with alexprep{f" ({versions})" if versions else ""} on {start.device if start else "an unknown device"}.
The digest of its data set's plan begins with `{trained.plan[:12]}`. The settings:

| setting | value |
|---|---|
{chosen}

## Limits

It knows its {len(trained.classes)} classes and gives one of them for any image.
Its errors are not the same for all classes: `alextrain eval` lists them.

## Classes

{classes}
"""


def _index(trained: Trained, results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the results in the format of Hugging Face's model index."""
    metrics = [
        {"type": kind, "name": f"{name} accuracy, {_views(result)}", "value": round(1 - getattr(result, key), 4)}
        for result in results
        for kind, key, name in (("accuracy", "top1_error", "top-1"), ("top-5-accuracy", "top5_error", "top-5"))
    ]
    data = {"name": f"plan {trained.plan[:12]}", "type": "imagefolder"}
    return [
        {
            "name": f"alexnet-{trained.settings.network.preset}",
            "results": [{"task": {"type": "image-classification"}, "dataset": data, "metrics": metrics}],
        }
    ]


def _table(results: Sequence[Measured]) -> str:
    if not results:
        return "Not measured: the run has no results of this checkpoint (`alextrain eval` measures it)."
    head = ["| | images | top-1 error | top-5 error |", "|---|---|---|---|"]
    lines = [f"| {_views(one)} | {one.count:,} | {_error(one.top1_error, one.count)} | {_error(one.top5_error, one.count)} |" for one in results]
    return "\n".join([*head, *lines, "", "In brackets: 95 % intervals (Wilson)."])


def _views(result: Measured) -> str:
    return "ten views averaged" if result.views == 10 else "centre view"


def _error(error: float, count: int) -> str:
    low, high = interval(error, count)
    return f"{100 * error:.2f} % ({100 * low:.2f} to {100 * high:.2f})"
