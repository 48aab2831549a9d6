"""What the loaders' scripts have in common: NAME_loader.py prepare RECORDS OUT, then NAME_loader.py load OUT KIND WORKERS BATCH SECONDS."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

CROP, ROOM = 224, 32  # of 256
MEAN, STD = np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)

Epoch = Callable[[], Iterator[int]]  # yields the size of each batch


def samples(records: Path) -> list[tuple[Path, int]]:
    """Return every JPEG record of a folder of class folders, with its label."""
    files = sorted(path for path in records.rglob("*") if path.is_file())
    labels = {name: label for label, name in enumerate(sorted({path.parent.name for path in files}))}
    return [(path, labels[path.parent.name]) for path in files]


def view(pixels: np.ndarray) -> Any:
    """Cut out, mirror and normalise one image by hand, as users of a library without transforms do: float32 tensor of [3,224,224]."""
    import torch

    top, left, flip = np.random.randint(ROOM + 1), np.random.randint(ROOM + 1), np.random.randint(2)
    pixels = pixels[top : top + CROP, left : left + CROP]
    pixels = pixels[:, ::-1] if flip else pixels
    return torch.from_numpy(np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1)))


def epochs_of(loader: Iterable[Any], images: Callable[[Any], Any] = lambda batch: batch[0]) -> Epoch:
    """Return a function that goes once through a loader; `images` takes the images out of a batch."""

    def epoch() -> Iterator[int]:
        for batch in loader:
            yield len(images(batch))

    return epoch


def measure(epoch: Epoch, seconds: float) -> dict[str, float]:
    """Run one epoch to warm up, then as many as fill the time."""
    start, first = time.perf_counter(), 0.0
    for _ in epoch():
        first = first or time.perf_counter() - start
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        images += sum(epoch())
    return {"images_per_second": images / (time.perf_counter() - start), "first_batch": first}


def main(kinds: dict[str, Callable[[Path, int, int], Epoch]], prepare: Callable[[Path, Path], None]) -> None:
    """Run the command line; the last line of its output is the result."""
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    _, _, out, kind, workers, batch, seconds = sys.argv
    print("\n" + json.dumps(measure(kinds[kind](Path(out), int(workers), int(batch)), float(seconds))))
