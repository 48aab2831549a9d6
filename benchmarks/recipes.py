"""Compare the authors' recipe (`source`) with torchvision's alexnet and its usual recipe, for the same wall-clock time on the same records.

python benchmarks/recipes.py SHARDS [--minutes 5] [--seeds 2] [--batch 128] [--out bench/recipes] [--venvs FOLDER]

The rates of both sides are measured first, alternating. Each side then takes the steps that fit into the minutes at its rate, so that a machine
that is busy later does not decide. Finished runs are not run again. benchmarks/loaders.py --install makes the peer's environment, which this needs.
"""

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from environments import VENVS

BIN = Path(sys.executable).parent
RATE_STEPS = 24


def ours(shards: Path, out: Path, steps: int, seed: int, batch: int, epoch_steps: int) -> dict[str, Any]:
    """Return the rate and the errors of a `source` run; its learning rate drops once, at 70 % of the epochs."""
    epochs = str(math.ceil(steps / epoch_steps))
    options = ["--steps", str(steps), "--epochs", epochs, "--seed", str(seed), "--batch-size", str(batch), "--precision", "bfloat16"]
    options += ["--set", "schedule=fixed", "--set", "drops=0.7", "--set", "log_steps=4"]
    begun = (out / "config.toml").exists()
    command = [BIN / "alextrain", "run", shards, "--out", out, *(["--resume"] if begun else options)]
    subprocess.run(command, check=True, capture_output=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = [row["images_per_s"] for row in rows if row["event"] == "step"]
    errors = {row["views"]: row["top1_error"] for row in rows if row["event"] == "result"}
    return {"images_per_s": statistics.median(rates), "ten": errors[10], "one": errors[1]}


def theirs(python: Path, folder: Path, steps: int, seed: int, batch: int, *, rate: bool = False) -> dict[str, Any]:
    """Return the same for torchvision's network."""
    script = Path(__file__).parent / "peers" / "torchvision_train.py"
    command = [python, script, folder, str(steps), str(seed), str(batch), *(["--rate"] if rate else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the content of `path`; make the file first if it is missing."""
    if not path.exists():
        value = make()
        path.write_text(json.dumps(value))
    return dict(json.loads(path.read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("bench/recipes"))
    parser.add_argument("--venvs", type=Path, default=VENVS)
    chosen = parser.parse_args()
    python = chosen.venvs.expanduser() / "torchvision" / "bin" / "python"
    chosen.out.mkdir(parents=True, exist_ok=True)
    folder = chosen.out / "records"
    if not folder.exists():
        subprocess.run([BIN / "alexprep", "export", chosen.shards, "--to", "imagefolder", "--out", folder], check=True, capture_output=True)
    splits = json.loads((chosen.shards / "manifest.json").read_text())["splits"]
    epoch_steps = sum(shard["rows"] for shard in splits["train"]["shards"]) // chosen.batch

    def rates() -> dict[str, Any]:
        found: dict[str, list[float]] = {"source": [], "torchvision": []}
        for turn in range(2):
            found["source"].append(ours(chosen.shards, chosen.out / f"rate-{turn}", RATE_STEPS, 0, chosen.batch, epoch_steps)["images_per_s"])
            found["torchvision"].append(theirs(python, folder, RATE_STEPS, 0, chosen.batch, rate=True)["images_per_s"])
        return {name: max(values) for name, values in found.items()}

    rate = kept(chosen.out / "rates.json", rates)
    steps = {name: int(60 * chosen.minutes * value / chosen.batch) for name, value in rate.items()}
    print(
        f"{platform.machine()}, {platform.python_version()}; {chosen.minutes:g} minutes, batch {chosen.batch}, {epoch_steps} steps an epoch",
        flush=True,
    )
    results: dict[str, list[dict[str, Any]]] = {"source": [], "torchvision": []}
    for seed in range(chosen.seeds):
        for name, values in results.items():
            path = chosen.out / f"{name}-{seed}.json"

            def make(name: str = name, seed: int = seed) -> dict[str, Any]:
                if name == "source":
                    return ours(chosen.shards, chosen.out / f"source-{seed}", steps[name], seed, chosen.batch, epoch_steps)
                return theirs(python, folder, steps[name], seed, chosen.batch)

            values.append(kept(path, make))
            one = values[-1]
            print(f"{name}, seed {seed}: ten views {100 * one['ten']:.2f} %, centre {100 * one['one']:.2f} %", flush=True)
    for name, values in results.items():
        line = [f"{name}: {rate[name]:.0f} images/s, {steps[name]} steps, {steps[name] / epoch_steps:.0f} epochs"]
        for view in ("ten", "one"):
            errors = [100 * value[view] for value in values]
            line.append(f"{view} {statistics.mean(errors):.2f} %" + (f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""))
        print("; ".join(line))


if __name__ == "__main__":
    main()
