"""Time of `alexprep shard` before the first image, and before it continues a killed job, for ImageNet-1k and for all of ImageNet.

python benchmarks/planning.py [--images 1281167 14197122]

The listings are synthetic (names as long as ImageNet's, no files). The plan, its digests, the shuffle, the folder of finished shards
with its sidecars and the check of that folder are real. Listing a real source comes on top and depends on the file system.
"""

import argparse
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
from alexprep.pipeline.config import ShardConfig
from alexprep.pipeline.imaging.moments import Moments
from alexprep.pipeline.preparation.job import ShardJob
from alexprep.pipeline.shards.sidecar import Shard, Sidecar
from alexprep.pipeline.sources import Listing, Source

IN_A_CLASS = 650


def made_up(images: int) -> Source:
    classes = [f"n{number:08}" for number in range(-(-images // IN_A_CLASS))]
    keys = pa.array((f"train/{classes[i // IN_A_CLASS]}/{classes[i // IN_A_CLASS]}_{i}.JPEG".encode() for i in range(images)), pa.large_binary())
    columns = [keys, pa.array(np.full(images, -1, np.int32)), pa.array(np.full(images, -1)), pa.array(np.arange(images) % 200_000)]
    places = pa.record_batch(columns, ["name", "file", "offset", "size"])
    return Source("made up", "", classes, [Listing("train", keys, np.arange(images) // IN_A_CLASS, places)], {}, [])


def finish(job: ShardJob, folder: Path, besides: int) -> int:
    """Make all but the last few shards look finished; return the number of finished ones."""
    names = job.plan.shards("train")[:-besides]
    counts = dict(Counter(i % len(job.plan.classes) for i in range(4096)))
    nothing = Moments.zero(1)
    sums = {**nothing.to_json(), "images": 4096}
    for name in names:
        Sidecar(Shard(name, 4096, 10**8, "0" * 64), job.plan.digest, counts, (), sums).write(folder, nothing)
        with (folder / name).open("wb") as file:
            file.truncate(10**8)  # a sparse file: no byte is written
    return len(names)


def measure(images: int, folder: Path) -> None:
    source = made_up(images)
    start = time.perf_counter()
    job = ShardJob(source, folder, ShardConfig())
    planned = time.perf_counter() - start
    job.plan.write(folder)
    finished = finish(job, folder, 2)
    start = time.perf_counter()
    again = ShardJob(source, folder, ShardConfig())
    progress = next(again.make_missing())
    resumed = time.perf_counter() - start
    print(
        f"{images:>11,} images: planned in {planned:.2f} s; resumed after {finished:,} shards ({progress.done:,} images) in {resumed:.2f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_281_167, 14_197_122])
    arguments = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, pyarrow {pa.__version__}")
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            measure(images, Path(folder))


if __name__ == "__main__":
    main()
