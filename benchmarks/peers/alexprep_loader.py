"""Our loader, measured like the peers; and three limits: converting bytes, libjpeg-turbo decoding of records, our decoding of a view's region."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from alexprep.pipeline import Loader, Records, read_manifest
from alexprep.pipeline.imaging.kernels import decode_region
from loading import CROP, ROOM, Epoch, epochs_of, main


def loader(encoding: str, **options: Any) -> Any:
    def make(out: Path, workers: int, batch: int) -> Epoch:
        made = Loader(out / encoding, batch_size=batch, threads=workers, mean="channel", **options)
        return epochs_of(made)

    return make


def conversion(_out: Path, workers: int, batch: int) -> Epoch:
    """Convert uint8 to float32 by torch, into allocated memory, as much of it as a loader has in flight."""
    torch.set_num_threads(workers)
    pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8)
    rooms = [torch.zeros(pixels.shape) for _ in range(4)]

    def epoch() -> Iterator[int]:
        for room in rooms * 4:
            room.copy_(pixels)
            yield batch

    return epoch


def whole(record: Any) -> bool:
    return len(simplejpeg.decode_jpeg(record, "RGB")) == CROP + ROOM


def region(record: Any) -> bool:
    left, top = random.randint(0, ROOM), random.randint(0, ROOM)
    box = (left, top, left + CROP, top + CROP)
    return len(decode_region(record, box)) == CROP


def decoding(decode: Callable[[Any], bool]) -> Any:
    """Decode records on threads, one after the other, and drop the pixels."""

    def make(out: Path, workers: int, _batch: int) -> Epoch:
        records = Records(read_manifest(out / "jpeg"), "train")
        images = [records.image(number) for number in range(len(records))]
        shares = [images[start::workers] for start in range(workers)]

        def epoch() -> Iterator[int]:
            with ThreadPoolExecutor(workers) as pool:
                yield from pool.map(lambda share: sum(map(decode, share)), shares)

        return epoch

    return make


if __name__ == "__main__":
    kinds = {f"{encoding} {layout}": loader(encoding, layout=layout) for encoding in ("jpeg", "raw") for layout in ("CHW", "channels_last")}
    kinds |= {f"{encoding} CHW {dtype}": loader(encoding, dtype=dtype) for encoding in ("jpeg", "raw") for dtype in ("bfloat16", "float16")}
    kinds |= {"conversion": conversion, "decoding": decoding(whole), "decoding regions": decoding(region)}
    main(kinds, lambda _records, _out: None)
