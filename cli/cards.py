"""What goes with an exported network: how images become its input, a model card, and Triton's configurations."""

import json
from collections.abc import Sequence
from typing import Any

from alexprep.model.evaluation.evaluator import interval
from alexprep.pipeline.errors import printable

from .evaluating import Trained


def preprocessing(trained: Trained) -> str:
    """Return the notes on preprocessing, Markdown."""
    size, crop, mean = trained.stats.mean_image.shape[0], trained.settings.crop, trained.settings.mean
    words = {
        "center": f"the centre {crop}x{crop} of the mean image of the training set, from every view",
        "pixel": f"the mean image of the training set at the view's own place; inside is its centre {crop}x{crop}, which is that of the centre view",
        "channel": "the mean of each channel over the training set",
        "none": "nothing",
    }[mean]
    corners = " (What was measured subtracts the mean image at each corner's own place: a little else.)" if mean == "pixel" else ""
    return f"""# Input and output

`pixels`: float32 [batch, 3, {crop}, {crop}], RGB, 0 to 255, not scaled. `probabilities`: float32 [batch, {len(trained.classes)}], after softmax.

1. Decode to RGB; ignore the EXIF orientation.
2. Scale the shorter side to {size} pixels (area averaging to shrink, cubic to enlarge).
3. Cut out the central {size}x{size}, and of it the central {crop}x{crop}.

The mean is subtracted inside: {words}. Do not subtract it, and do not divide by a standard deviation.

Ten views, as in the paper: the four corners and the centre {crop}x{crop} of the {size}x{size}, and their mirrors;
average the ten probabilities.{corners}
"""


def card(trained: Trained, start: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """Return a model card, filled from the run's "start" and "result" rows; its head is YAML (of which JSON is a part)."""
    settings = trained.settings
    versions = ", ".join(f"{name} {value}" for name, value in start.get("versions", {}).items())
    chosen = "\n".join(f"| {name} | {value} |" for name, value in vars(settings).items())
    classes = ", ".join(f"{label}: {json.dumps(printable(name), ensure_ascii=False)}" for label, name in enumerate(trained.classes))
    return f"""---
library_name: alexprep
pipeline_tag: image-classification
tags: [alexnet, image-classification]
model-index: {json.dumps(_index(trained, results))}
---

# {"AlexNet (2012)" if settings.alexnet else "A four-layer net"}, preset `{settings.preset}`

{len(trained.classes)} classes, {settings.width:g} times the preset's width, {trained.step:,} steps of {settings.batch_size} images.

## Results on held-out images

{_table(results)}

## Use

```python
from alexprep.model.networks.inference import load

model, config = load(".")       # this folder
probabilities = model(pixels)   # float32[batch, 3, {settings.crop}, {settings.crop}], RGB, 0 to 255
```

{preprocessing(trained).replace("# Input", "## Input")}
## Training

Trained with alexprep{f" ({versions})" if versions else ""} on {start.get("device", "an unknown device")}.
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


def _index(trained: Trained, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the results in the words of Hugging Face's model index."""
    metrics = [
        {"type": kind, "name": f"{name} accuracy, {_views(row)}", "value": round(1 - row[key], 4)}
        for row in results
        for kind, key, name in (("accuracy", "top1_error", "top-1"), ("top-5-accuracy", "top5_error", "top-5"))
    ]
    data = {"name": f"plan {trained.plan[:12]}", "type": "imagefolder"}
    return [
        {"name": f"alexnet-{trained.settings.preset}", "results": [{"task": {"type": "image-classification"}, "dataset": data, "metrics": metrics}]}
    ]


def _table(results: Sequence[dict[str, Any]]) -> str:
    if not results:
        return "Not measured: the run has no results of this checkpoint (`alextrain eval` measures it)."
    head = ["| | images | top-1 error | top-5 error |", "|---|---|---|---|"]
    lines = [f"| {_views(row)} | {row['count']:,} | {_error(row, 'top1_error')} | {_error(row, 'top5_error')} |" for row in results]
    return "\n".join([*head, *lines, "", "In brackets: 95 % intervals (Wilson)."])


def _views(row: dict[str, Any]) -> str:
    return "ten views averaged" if row["views"] == 10 else "centre view"


def _error(row: dict[str, Any], key: str) -> str:
    low, high = interval(row[key], row["count"])
    return f"{100 * row[key]:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


MOST = 128  # images of a batch of Triton's


def triton_configs(trained: Trained, device: str) -> dict[str, str]:
    """Return config.pbtxt of each model of the repository, by its folder's name."""
    crop, classes = trained.settings.crop, len(trained.classes)
    place = "KIND_GPU" if device == "gpu" else "KIND_CPU"
    image, pixels, p = ("TYPE_UINT8", "[ -1 ]"), ("TYPE_FP32", f"[ 3, {crop}, {crop} ]"), ("TYPE_FP32", f"[ {classes} ]")

    def tensors(kind: str, name: str, of: tuple[str, str]) -> str:
        return f'{kind} [ {{ name: "{name}" data_type: {of[0]} dims: {of[1]} }} ]\n'

    def step(model: str, given: tuple[str, str], made: tuple[str, str]) -> str:
        maps = f'input_map {{ key: "{given[0]}" value: "{given[1]}" }} output_map {{ key: "{made[0]}" value: "{made[1]}" }}'
        return f'    {{ model_name: "{model}" model_version: -1 {maps} }}'

    steps = ",\n".join(
        [step("preprocess", ("image", "image"), ("pixels", "view")), step("network", ("pixels", "view"), ("probabilities", "probabilities"))]
    )
    return {
        "preprocess": f'name: "preprocess"\nbackend: "dali"\nmax_batch_size: {MOST}\n'
        + tensors("input", "image", image)
        + tensors("output", "pixels", pixels)
        + f"instance_group [ {{ kind: {place} }} ]\ndynamic_batching {{ }}\n",
        "network": f'name: "network"\nbackend: "onnxruntime"\nmax_batch_size: {MOST}\n'
        + tensors("input", "pixels", pixels)
        + tensors("output", "probabilities", p)
        + f"instance_group [ {{ kind: {place} }} ]\ndynamic_batching {{ }}\n",
        "classify": f'name: "classify"\nplatform: "ensemble"\nmax_batch_size: {MOST}\n'
        + tensors("input", "image", image)
        + tensors("output", "probabilities", p)
        + f"ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n",
    }


def triton_notes(trained: Trained, device: str) -> str:
    """Return the repository's README."""
    return f"""# A model repository for NVIDIA Triton

`classify` takes the bytes of an encoded image (uint8 [-1]) and returns {len(trained.classes)} probabilities of its centre view. It is an ensemble of
`preprocess` (a DALI graph, decoding on the {device.upper()}) and `network` (ONNX).

    tritonserver --model-repository .

It needs Triton's DALI and ONNX Runtime backends. DALI scales images with its own filter, which is not the one that the network
was trained behind: pixels differ by about one grey level on average, and probabilities accordingly. A batch may hold images of
any sizes; clients pad their bytes to one length (JPEG decoders ignore what follows the end of an image).

What was checked when this was written: the DALI graph was built and its operators are in the registry of the DALI that built it; the ONNX network
equals torch to 1e-5 in onnxruntime. Triton itself was not there.

{preprocessing(trained).replace("# Input", "## Input")}"""
