"""Shrinking and moments: the compiled loops against their plain twins, alternating in one run.

On drawn pictures of 500x375, or on the photographs below --src that are larger than 256 pixels.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from alexprep.pipeline.images import central_square, decode, use_one_thread
from alexprep.pipeline.kernels import COMPILED, area_square, count_moments, plain_area_square, plain_count_moments

SIZE, ROUNDS = 256, 9


def pictures(source: Path | None, count: int) -> list[np.ndarray]:
    if source is None:
        rng = np.random.default_rng(0)
        return [cv2.resize(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC) for _ in range(count)]
    images = (decode(file.read_bytes()) for file in sorted(source.rglob("*.JPEG"))[:count])
    return [image for image in images if min(image.shape[:2]) > SIZE]


def scaled(image: np.ndarray) -> tuple[int, int]:
    height, width = (int(side * SIZE / min(image.shape[:2]) + 0.5) for side in image.shape[:2])
    return height, width


def compare(name: str, fast: Callable[[np.ndarray], object], plain: Callable[[np.ndarray], object], images: list[np.ndarray]) -> None:
    times: dict[Callable[[np.ndarray], object], list[float]] = {fast: [], plain: []}
    for round_ in range(ROUNDS):
        for function in (fast, plain):
            start = time.perf_counter()
            for image in images:
                function(image)
            if round_:  # the first warms up
                times[function].append((time.perf_counter() - start) / len(images))
    ours, theirs = (statistics.median(times[function]) for function in (fast, plain))
    ratio = statistics.median(b / a for a, b in zip(times[fast], times[plain], strict=True))
    print(f"{name:<8} compiled {1000 * ours:6.3f} ms   plain {1000 * theirs:6.3f} ms   ratio {ratio:5.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--src", type=Path, help="a folder with *.JPEG below it")
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    use_one_thread()
    images = pictures(arguments.src, arguments.count)
    print(f"{platform.machine()}, numpy {np.__version__}, OpenCV {cv2.__version__}, one thread, {len(images)} images, median of {ROUNDS - 1}")
    if not COMPILED:
        print("the extension is not there: both sides are the plain twin")
    compare("shrink", lambda i: area_square(i, scaled(i), SIZE), lambda i: plain_area_square(i, scaled(i), SIZE), images)
    squares = [central_square(image, SIZE) for image in images]
    pixel_sum, outer = np.zeros((SIZE, SIZE, 3), np.uint16), np.zeros(6, np.uint64)  # the sums wrap around, and nobody reads them
    compare("moments", lambda i: count_moments(i, pixel_sum, outer), lambda i: plain_count_moments(i, pixel_sum, outer), squares)


if __name__ == "__main__":
    main()
