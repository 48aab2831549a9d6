"""What each stage does on this machine: sharding, loading, and one training step, each beside its own bare kernels.

python benchmarks/throughput.py [--src FOLDER_OF_CLASS_FOLDERS]     # default: drawn pictures
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from alexprep.model.alexnet import AlexNet
from alexprep.model.layers import dropout_keys
from alexprep.pipeline import Loader, Records, read_manifest
from alexprep.pipeline.demo_data import write_demo_data
from alexprep.pipeline.images import central_square, decode, decode_record, encode, use_one_thread
from alexprep.pipeline.sources import find_source


def median_rate(work: Callable[[], int], repeats: int = 5) -> float:
    """Images a second of `work`, which returns how many it did; the first run warms up."""
    rates = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        count = work()
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def shard(src: Path, out: Path, encoding: str) -> None:
    command = [Path(sys.executable).parent / "alexprep", "shard", "--src", src, "--out", out, "--encoding", encoding, "--max-bad", "0.05", "--json"]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    images = sum(split["records"] + split["quarantined"] for split in done["splits"].values())
    rate = images / done["seconds"]
    source = find_source(src)
    listing = source.listings()[0]
    files = [source.read(listing.split, place) for _, _, place in listing.rows()[:200]]
    use_one_thread()

    def kernels() -> int:
        done = 0
        for data in files:
            try:
                square = central_square(decode(data), 256)
            except Exception:  # noqa: S112  (the odd file of the demo)
                continue
            if encoding == "jpeg":
                decode_record(encode(square, 95))
            done += 1
        return done

    workers = len(os.sched_getaffinity(0))
    bare = workers * median_rate(kernels, 3)
    limit = f"bare kernels x {workers} cores {bare:.0f}; ratio {rate / bare:.2f}"
    print(f"shard {encoding:<5} {rate:8.0f} images/s, start-up included; {limit} ({images} images)")


def load(out: Path, encoding: str) -> None:
    loader = Loader(out / encoding, batch_size=128, layout="channels_last")
    rate = median_rate(lambda: sum(len(batch.labels) for batch in loader))
    records = Records(read_manifest(out / encoding), "train")
    if encoding == "jpeg":
        images = [records.image(i) for i in range(min(256, len(records)))]

        def bare() -> int:
            return sum(decode_record(image).shape[2] == 3 for image in images)

        limit, what = len(os.sched_getaffinity(0)) * median_rate(bare), "bare libjpeg-turbo decode of whole records"
    else:
        pixels = torch.stack([torch.tensor(records.image(i)[:224, :224]) for i in range(128)])

        def convert() -> int:
            return len(pixels.to(torch.float32))

        limit, what = median_rate(convert), "bare uint8 -> float32 conversion of the crop"
    print(f"load {encoding:<5}  {rate:8.0f} images/s, mean image and PCA colour; {what} {limit:.0f}; ratio {rate / limit:.2f}")


def train() -> None:
    model = AlexNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(128, 3, 224, 224).to(memory_format=torch.channels_last) * 70
    labels, keys = torch.randint(0, 1000, (128,)), dropout_keys(0, 0, torch.arange(128))

    def step() -> int:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(images, keys), labels).backward()
        return len(images)

    print(f"train        {median_rate(step, 3):8.1f} images/s: forward and backward of the full source net, float32, batch 128")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--src", type=Path)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        out, src = Path(folder), arguments.src
        if src is None:
            src = out / "imagenet"
            for _ in write_demo_data(src, 60, 20, 0):
                pass
        for encoding in ("jpeg", "raw"):
            shard(src, out / encoding, encoding)
            load(out, encoding)
    train()


if __name__ == "__main__":
    main()
