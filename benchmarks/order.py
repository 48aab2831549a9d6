"""The epoch's order for ImageNet-1k and for a set of 14 million: memory, and time to its first batch, to a batch of another part, to all of it."""

import platform
import resource
import time

import numpy as np
from alexprep.pipeline.batches.sampler import shuffled
from alexprep.pipeline.counter_rng import permutation


def main() -> None:
    print(f"{platform.machine()}, numpy {np.__version__}")
    for n in (1_281_167, 14_197_122):
        seconds = []
        for place in (0, n // 2):
            start = time.perf_counter()
            shuffled(0, 1, n)[place : place + 128]
            seconds.append(time.perf_counter() - start)
        peak = peak_mib()
        start = time.perf_counter()
        permutation(0, 1, n)
        whole = time.perf_counter() - start
        print(
            f"{n:>11,} records: first batch {seconds[0]:.2f} s, another part {seconds[1]:.2f} s, process peak {peak:.0f} MiB; "
            f"all at once {whole:.2f} s, {peak_mib():.0f} MiB"
        )


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
