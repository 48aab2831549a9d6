"""Ours, in the same frame; and the two limits: bare conversion of the bytes, and bare libjpeg-turbo decoding of the records."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from alexprep.pipeline import Loader, Records, read_manifest
from loading import Epoch, epochs_of, main


def loader(encoding: str, **options: Any) -> Any:
    def make(out: Path, workers: int, batch: int) -> Epoch:
        made = Loader(out / encoding, batch_size=batch, threads=workers, mean="channel", **options)
        return epochs_of(made)

    return make


def conversion(_out: Path, workers: int, batch: int) -> Epoch:
    """uint8 to float32 by torch, into memory that is there, as much of it as a loader has in flight."""
    torch.set_num_threads(workers)
    pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8)
    rooms = [torch.zeros(pixels.shape) for _ in range(4)]

    def epoch() -> Iterator[int]:
        for room in rooms * 4:
            room.copy_(pixels)
            yield batch

    return epoch


def decoding(out: Path, workers: int, batch: int) -> Epoch:
    """Whole records on threads, one after the other; the pixels are dropped."""
    records = Records(read_manifest(out / "jpeg"), "train")
    images = [records.image(number) for number in range(len(records))]
    shares = [images[start::workers] for start in range(workers)]

    def share(images: list[Any]) -> int:
        return sum(len(simplejpeg.decode_jpeg(image, "RGB")) == 256 for image in images)

    def epoch() -> Iterator[int]:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(share, shares)

    return epoch


if __name__ == "__main__":
    kinds = {f"{encoding} {layout}": loader(encoding, layout=layout) for encoding in ("jpeg", "raw") for layout in ("CHW", "channels_last")}
    kinds |= {f"raw CHW {dtype}": loader("raw", dtype=dtype) for dtype in ("bfloat16", "float16")}
    main(kinds | {"conversion": conversion, "decoding": decoding}, lambda _records, _out: None)
