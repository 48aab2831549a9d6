"""Compare `alextrain eval` with ten views and the whole network to the same evaluation by torchvision's TenCrop and a DataLoader, alternating.

python benchmarks/evaluate.py SHARDS [--rounds 3] [--venvs FOLDER] [--json FILE]

A `source` network is trained for a few steps on the shards (ten classes are enough); both sides evaluate it on their val split. The peer's network
consists of torch's own layers, in float32, and reads the same records as image files. Both must find the same error. Rates cover the whole command
without its start-up: reading, ten views, network. benchmarks/loaders.py --install makes the peer's environment, which this needs (with safetensors).
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from alexprep.experiment.measuring.evaluate import Trained, measure
from alexprep.model.distributed import Ranks

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from environments import VENVS

BIN = Path(sys.executable).parent


def ours(run: Path, shards: Path, dtype: torch.dtype) -> dict[str, Any]:
    trained = Trained.load(run, Ranks())
    start = time.perf_counter()
    found, _ = measure([trained], shards, "val", 10, Ranks(), dtype=dtype)
    result = found.evaluation()
    return {"images_per_s": result.count / (time.perf_counter() - start), "top1_error": result.top1_error}


def theirs(python: Path, folder: Path, hub: Path) -> dict[str, Any]:
    script = Path(__file__).parent / "peers" / "torchvision_tencrop.py"
    done = subprocess.run([python, script, folder, hub], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="training steps before the evaluation (default: %(default)s)")
    parser.add_argument("--venvs", type=Path, default=VENVS)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    python = chosen.venvs.expanduser() / "torchvision" / "bin" / "python"
    with tempfile.TemporaryDirectory() as scratch:
        run, folder = Path(scratch) / "run", Path(scratch) / "records"
        train = [BIN / "alextrain", "run", chosen.shards, "--out", run, "--steps", str(chosen.steps), "--precision", "bfloat16", "--batch-size", "64"]
        subprocess.run(train, check=True, capture_output=True)
        subprocess.run([BIN / "alextrain", "export", run, "--to", "hub-folder"], check=True, capture_output=True)
        subprocess.run([BIN / "alexprep", "export", chosen.shards, "--to", "imagefolder", "--out", folder], check=True, capture_output=True)
        sides: dict[str, Any] = {
            "torchvision's TenCrop, float32": lambda: theirs(python, folder / "val", run / "hub"),
            "alextrain eval, float32": lambda: ours(run, chosen.shards, torch.float32),
            "alextrain eval, bfloat16": lambda: ours(run, chosen.shards, torch.bfloat16),
        }
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
        for _ in range(chosen.rounds):
            for name, side in sides.items():
                found[name].append(side())
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}; ten views, {chosen.rounds} rounds")
    base = found["torchvision's TenCrop, float32"]
    for name, values in found.items():
        rates = [value["images_per_s"] for value in values]
        ratio = statistics.median(value["images_per_s"] / other["images_per_s"] for value, other in zip(values, base, strict=True))
        spread = f"({min(rates):.1f} to {max(rates):.1f})"
        print(
            f"{name:34} {statistics.median(rates):6.1f} images/s {spread:18} {ratio:5.2f} times   top-1 error {100 * values[0]['top1_error']:.2f} %"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
