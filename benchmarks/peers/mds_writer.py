"""MosaicML Streaming's MDSWriter, fed by a pool of processes: mds_writer.py SRC OUT WORKERS."""

import multiprocessing
import time
from pathlib import Path

from streaming import MDSWriter
from usual import main, record, samples


def write(src: Path, out: Path, workers: int) -> tuple[int, float]:
    start = time.perf_counter()
    inputs = samples(src)
    columns = {"image": "bytes", "label": "int"}
    with multiprocessing.Pool(workers) as pool, MDSWriter(out=str(out), columns=columns) as writer:
        for image, label in pool.imap(record, inputs, chunksize=8):
            writer.write({"image": image, "label": label})
    return len(inputs), time.perf_counter() - start


if __name__ == "__main__":
    main(write)
