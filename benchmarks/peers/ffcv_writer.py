"""FFCV's DatasetWriter: ffcv_writer.py SRC OUT WORKERS."""

import time
from pathlib import Path

from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from PIL import Image
from usual import main, samples, square


class Squares:
    """An indexed dataset; FFCV encodes the images itself, with OpenCV."""

    def __init__(self, src: Path) -> None:
        self.samples = samples(src)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.samples[index]
        return square(path), label


def write(src: Path, out: Path, workers: int) -> tuple[int, float]:
    start = time.perf_counter()
    out.mkdir()
    squares = Squares(src)
    fields = {"image": RGBImageField(write_mode="jpg", max_resolution=256, jpeg_quality=95), "label": IntField()}
    DatasetWriter(str(out / "squares.beton"), fields, num_workers=workers).from_indexed_dataset(squares)
    return len(squares), time.perf_counter() - start


if __name__ == "__main__":
    main(write)
