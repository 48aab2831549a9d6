"""The epoch's order: time and memory of `permutation`, for ImageNet-1k and for a set of 14 million."""

import platform
import resource
import time

import numpy as np
from alexprep.pipeline.order import permutation


def main() -> None:
    print(f"{platform.machine()}, numpy {np.__version__}")
    for n in (1_281_167, 14_197_122):
        start = time.perf_counter()
        permutation(0, 1, n)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{n:>11,} records: {time.perf_counter() - start:.2f} s, process peak {peak:.0f} MiB")


if __name__ == "__main__":
    main()
