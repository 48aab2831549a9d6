"""SPDL's Pipeline on threads: FFmpeg decodes, crops and mirrors each record, and torch normalises the batch.

FFmpeg's pixels are within three levels of libjpeg's. The source names whole batches, and one thread makes each of them: SPDL's event loop
takes more time to pass on single records than that saves. SPDL's processes are no faster here.
"""

import os
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from loading import CROP, MEAN, ROOM, STD, Epoch, main, samples
from spdl.io import convert_frames, decode_packets, demux_image, to_torch
from spdl.io.utils import get_ffmpeg_versions
from spdl.pipeline import PipelineBuilder


class Order:
    """The batches of an epoch, in another order each time."""

    def __init__(self, files: list[tuple[Path, int]], batch: int) -> None:
        self.files, self.batch = files, batch

    def __iter__(self) -> Iterator[list[tuple[Path, int]]]:
        order = random.sample(self.files, len(self.files))
        for last in range(self.batch, len(order) + 1, self.batch):
            yield order[last - self.batch : last]


def view() -> str:
    """Return FFmpeg's filter for one record."""
    left, top, mirror = random.randint(0, ROOM), random.randint(0, ROOM), random.choice(("", "hflip,"))
    return f"crop={CROP}:{CROP}:{left}:{top}:exact=1,{mirror}format=pix_fmts=rgb24"


def prepare(records: Path, out: Path) -> None:
    os.symlink(records, out)


def make(out: Path, workers: int, batch: int) -> Epoch:
    get_ffmpeg_versions()  # raises where there is none
    torch.set_num_threads(1)
    mean, std = (torch.from_numpy(values).view(3, 1, 1) for values in (MEAN, STD))

    def load(files: list[tuple[Path, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        frames = [decode_packets(demux_image(str(path)), filter_desc=view()) for path, _ in files]
        pixels = to_torch(convert_frames(frames)).permute(0, 3, 1, 2)
        images = pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)
        return images, torch.tensor([label for _, label in files])

    source = PipelineBuilder().add_source(Order(samples(out.resolve()), batch), continuous=True)
    pipeline = source.pipe(load, concurrency=workers).add_sink(buffer_size=3).build(num_threads=workers, max_failures=0)
    start = cache(pipeline.start)  # starts with the first epoch, because the first batches are made from here on

    def epoch() -> Iterator[int]:
        start()
        for images, _ in pipeline:
            yield len(images)

    return epoch


if __name__ == "__main__":
    main({"jpeg": make}, prepare)
