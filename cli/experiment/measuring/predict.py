"""Classify images from files with ten views."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.evaluation.evaluator import FIVE, probabilities
from alexprep.pipeline import DataError
from alexprep.pipeline.batches import reference
from alexprep.pipeline.batches.views import windows
from alexprep.pipeline.errors import UndecodableImage
from alexprep.pipeline.imaging.codec import square
from jaxtyping import UInt8

from ..process.launch import this_process
from .evaluate import Trained

TopClasses = list[tuple[str, int, float]]  # class, label, probability; the most probable first
MOST_BYTES = 1 << 30  # maximum bytes of an image's file


def classify(checkpoint: str | Path, images: Sequence[str | Path], ranks: Ranks | None = None, model: str = "") -> Iterator[tuple[Path, TopClasses]]:
    """Yield the five most probable classes of each image. DataError names a file that is not an image, before any image is classified."""
    ranks = this_process() if ranks is None else ranks
    paths = [Path(image) for image in images]
    trained = Trained.load(Path(checkpoint), ranks, model)
    for path in paths:
        _pixels(path, trained)
    for path in paths:
        views = ten_views(_pixels(path, trained), trained)[None].to(ranks.device)
        with torch.inference_mode():
            p = probabilities(trained.model, views)[0]
        if not bool(p.isfinite().all()):
            raise TrainingError(f"the network's outputs are not finite: the weights in {checkpoint} have diverged")
        best = p.topk(min(FIVE, len(p)))
        yield path, [(trained.classes[label], label, value) for value, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def ten_views(pixels: UInt8[np.ndarray, "s s 3"], trained: Trained) -> torch.Tensor:
    """Return float32[10,3,crop,crop]: the views of a record, in the order of the evaluation."""
    config = trained.settings.loader(views="ten", split="val", on_bad="raise")
    still = np.zeros(3, np.float32)
    fixed = windows("ten", len(pixels) - config.crop)
    return torch.from_numpy(np.stack([reference.view(pixels, (w.top, w.left), bool(w.flip), still, config, trained.stats) for w in fixed]))


def _pixels(path: Path, trained: Trained) -> UInt8[np.ndarray, "s s 3"]:
    """Return the record that `alexprep shard` would make of an image, before encoding. DataError if the file is not an image."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give images, not folders")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes; an image has at most {MOST_BYTES:,}")
    try:
        return square(path.read_bytes(), len(trained.stats.mean_image)).pixels
    except UndecodableImage as error:
        raise DataError(f"{path}: {error}") from error
