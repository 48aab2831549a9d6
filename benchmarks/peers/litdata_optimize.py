"""LitData's optimize: litdata_optimize.py SRC OUT WORKERS."""

import time
from pathlib import Path

from litdata import optimize
from usual import main, record, samples


def convert(sample: tuple[str, int]) -> dict[str, bytes | int]:
    data, label = record(sample)
    return {"image": data, "label": label}


def write(src: Path, out: Path, workers: int) -> tuple[int, float]:
    start = time.perf_counter()
    inputs = samples(src)
    optimize(convert, inputs, str(out), num_workers=workers, chunk_bytes="64MB")
    return len(inputs), time.perf_counter() - start


if __name__ == "__main__":
    main(write)
