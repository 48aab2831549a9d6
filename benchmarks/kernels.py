"""JPEG, shrinking and moments: the compiled loops and their plain twins, alternating in one run.

The images are drawn pictures of 500x375, or the JPEGs below --src that are larger than 256 pixels. The twins are libjpeg-turbo (decoding whole
images with simplejpeg, encoding and then decoding with Pillow and simplejpeg), OpenCV and numpy; the bits are the same.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from alexprep.pipeline.imaging.codec import central_square, decode, square, use_one_thread
from alexprep.pipeline.imaging.kernels import (
    COMPILED,
    area_square,
    count_moments,
    decode_jpeg,
    encode_jpeg,
    plain_area_square,
    plain_count_moments,
    plain_decode_jpeg,
    plain_encode_jpeg,
)

SIZE, ROUNDS = 256, 9


def jpegs(source: Path | None, count: int) -> list[bytes]:
    if source is None:
        rng = np.random.default_rng(0)
        drawn = [cv2.resize(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC) for _ in range(count)]
        return [simplejpeg.encode_jpeg(image, 90) for image in drawn]
    files = [file.read_bytes() for file in sorted(source.rglob("*.JPEG"))[:count]]
    return [data for data in files if min(decode(data).shape[:2]) > SIZE]


def scaled(image: np.ndarray) -> tuple[int, int]:
    height, width = (int(side * SIZE / min(image.shape[:2]) + 0.5) for side in image.shape[:2])
    return height, width


def plain_square(image: np.ndarray) -> np.ndarray:
    return plain_area_square(image, scaled(image), SIZE)


def compare(name: str, fast: Callable[[Any], object], plain: Callable[[Any], object], images: Sequence[Any]) -> None:
    times: dict[Callable[[Any], object], list[float]] = {fast: [], plain: []}
    for round_ in range(ROUNDS):
        for function in (fast, plain):
            start = time.perf_counter()
            for image in images:
                function(image)
            if round_:  # the first round warms up
                times[function].append((time.perf_counter() - start) / len(images))
    ours, theirs = (statistics.median(times[function]) for function in (fast, plain))
    ratio = statistics.median(b / a for a, b in zip(times[fast], times[plain], strict=True))
    print(f"{name:<16} compiled {1000 * ours:6.3f} ms   plain {1000 * theirs:6.3f} ms   ratio {ratio:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", type=Path, help="folder with *.JPEG files below it")
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    use_one_thread()
    files = jpegs(arguments.src, arguments.count)
    images = [plain_decode_jpeg(data) for data in files]
    squares = [central_square(image, SIZE) for image in images]
    records = [plain_encode_jpeg(image, 95).data for image in squares]
    versions = f"numpy {np.__version__}, OpenCV {cv2.__version__}, simplejpeg {version('simplejpeg')}, Pillow {version('pillow')}"
    print(f"{platform.machine()}, {versions}, one thread, {len(images)} images, median of {ROUNDS - 1}")
    if not COMPILED:
        print("the extension is not there: both sides are the plain twin")
    compare("JPEG to square", lambda data: square(data, SIZE), lambda data: plain_square(plain_decode_jpeg(data)), files)
    compare("decode a JPEG", decode_jpeg, plain_decode_jpeg, files)
    compare("decode a record", decode_jpeg, plain_decode_jpeg, records)
    compare("encode a record", lambda image: encode_jpeg(image, 95), lambda image: plain_encode_jpeg(image, 95), squares)
    compare("shrink", lambda image: area_square(image, scaled(image), SIZE), plain_square, images)
    pixel_sum, outer = np.zeros((SIZE, SIZE, 3), np.uint16), np.zeros(6, np.uint64)  # the sums wrap around and are not read
    compare("moments", lambda image: count_moments(image, pixel_sum, outer), lambda image: plain_count_moments(image, pixel_sum, outer), squares)


if __name__ == "__main__":
    main()
