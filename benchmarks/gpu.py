"""Batches made on a GPU: images/s of every encoding, layout and number format, against the copy of as many bytes to the device.

python benchmarks/gpu.py [--src FOLDER] [--copies 4] [--seconds 5]

FOLDER holds images as `alexprep shard` takes them; without it, they are drawn. Written on a machine without a GPU: no figure of it is known.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from alexprep.cli.bench import copying, whole
from alexprep.pipeline import Loader, ShardConfig, ShardJob
from alexprep.pipeline.config import Encoding
from alexprep.pipeline.demo_data import write_demo_data
from alexprep.pipeline.sources import find_source
from peers.environments import link

BATCH = 128


def shards(src: Path, folder: Path, encoding: Encoding) -> Path:
    job = ShardJob(find_source(src), folder / encoding, ShardConfig(encoding=encoding), 0, 0.1)
    for _ in job.run():
        pass
    return folder / encoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs an NVIDIA GPU and a torch built for it; alexprep doctor says what is missing")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batches of {BATCH}, 224x224, PCA colour\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        src = arguments.src or folder / "drawn"
        if arguments.src is None:
            for _ in write_demo_data(src, 200, 20, 0):
                pass
        link((path for path in sorted(src.rglob("*")) if path.is_file()), src, folder / "src", arguments.copies)
        encodings: tuple[Encoding, ...] = ("jpeg", "raw")
        for encoding in encodings:
            data = shards(folder / "src", folder, encoding)
            for layout in ("CHW", "channels_last"):
                for dtype in ("float32", "float16", "bfloat16"):
                    loader = Loader(data, batch_size=BATCH, device="gpu", layout=layout, dtype=dtype)
                    print(f"{encoding:<5} {layout:<14} {dtype:<9} {whole(loader, arguments.seconds):>10,.0f} images/s", flush=True)
            print(f"{encoding:<5} copied to the device only {copying(loader, arguments.seconds):>14,.0f} images/s")


if __name__ == "__main__":
    main()
