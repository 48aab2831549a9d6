"""What this machine does: loading, beside its bare kernels, and one training step. Making shards: producers.py.

python benchmarks/throughput.py [--src FOLDER_OF_CLASS_FOLDERS]     # default: drawn pictures
"""

import argparse
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
from alexprep.pipeline.kernels import plain_decode_jpeg


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
    subprocess.run(command, check=True, capture_output=True)


def load(out: Path, encoding: str) -> None:
    loader = Loader(out / encoding, batch_size=128, layout="channels_last")
    rate = median_rate(lambda: sum(len(batch.labels) for batch in loader))
    records = Records(read_manifest(out / encoding), "train")
    if encoding == "jpeg":
        images = [records.image(i) for i in range(min(256, len(records)))]

        def bare() -> int:
            return sum(plain_decode_jpeg(image).shape[2] == 3 for image in images)

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
