"""WebDataset's ShardWriter, fed by a pool of processes: wds_writer.py SRC OUT WORKERS."""

import multiprocessing
import time
from pathlib import Path

from usual import main, record, samples
from webdataset import ShardWriter


def write(src: Path, out: Path, workers: int) -> tuple[int, float]:
    start = time.perf_counter()
    out.mkdir()
    inputs = samples(src)
    with multiprocessing.Pool(workers) as pool, ShardWriter(str(out / "squares-%05d.tar"), verbose=0) as writer:
        for index, (image, label) in enumerate(pool.imap(record, inputs, chunksize=8)):
            writer.write({"__key__": f"{index:08d}", "jpg": image, "cls": label})
    return len(inputs), time.perf_counter() - start


if __name__ == "__main__":
    main(write)
