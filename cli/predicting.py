"""Images from files, classified with ten views."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from alexprep.model.distributed import Ranks
from alexprep.model.evaluator import FIVE, probabilities
from alexprep.pipeline import DataError, reference
from alexprep.pipeline.errors import UndecodableImage
from alexprep.pipeline.images import square
from alexprep.pipeline.views import windows

from .evaluating import Trained

Answer = list[tuple[str, int, float]]  # class, label, probability; the most probable first
MOST_BYTES = 1 << 30  # of an image's file


def classify(checkpoint: Path, images: Sequence[Path], ranks: Ranks, own: str = "") -> Iterator[tuple[Path, Answer]]:
    """Yield the five most probable classes of each image; DataError names one that cannot be read, before any is classified."""
    trained = Trained.load(checkpoint, ranks, own)
    for path in images:
        _bytes(path)
    for path in images:
        p = probabilities(trained.model, ten_views(_bytes(path), path, trained)[None].to(ranks.device))[0]
        best = p.topk(min(FIVE, len(p)))
        yield path, [(trained.classes[label], label, value) for value, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


@torch.inference_mode()
def ten_views(data: bytes, path: Path, trained: Trained) -> torch.Tensor:
    """Return float32[10,3,crop,crop]: the views of the record that `alexprep shard` would make of an image, in the order of the evaluation."""
    size = trained.stats.mean_image.shape[0]
    try:
        pixels = square(data, size).pixels
    except UndecodableImage as error:
        raise DataError(f"{path}: {error}") from error
    config = trained.settings.loader(views="ten", split="val", on_bad="raise")
    still = np.zeros(3, np.float32)
    views = [reference.view(pixels, (w.top, w.left), bool(w.flip), still, config, trained.stats) for w in windows("ten", size - config.crop)]
    return torch.from_numpy(np.stack(views))


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path} is no file; give images, not folders")
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes; an image has at most {MOST_BYTES:,}")
    return path.read_bytes()
