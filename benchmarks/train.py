"""Whole training steps of the `paper` network, batch 128: ours and the same network written the usual way, alternating in one run.

python benchmarks/train.py [--rounds 3] [--batch 128] [--device cpu|gpu] [--only NAME]... [--loader FOLDER] [--json FILE]

usual      float32, contiguous, torch's LocalResponseNorm, Dropout and SGD, eager
compiled   the usual network in channels_last, with bfloat16 autocast and torch.compile: the best of torch alone
ours       channels_last with our normalisation, dropout and update; in float32, in bfloat16, and in bfloat16 with torch.compile

"share" is the share of this machine's bfloat16 matrix rate with 4096x4096 matrices, measured in each round: 4.136 GFLOP per training image.
With --loader, training on the shards in FOLDER (as alexprep shard makes them) alternates with `--data synthetic`, through the command line. The
ratio of the two rates measures the loader: 1 means that the trainer never waits. On a GPU, float16 (without a loss scale) is measured
too, and TF32 with --tf32.
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
from functools import partial
from pathlib import Path
from typing import Any

import torch
from alexprep.model.networks.alexnet import AlexNet
from alexprep.model.networks.layers import dropout_keys
from alexprep.model.training.optimizer import RATES, PaperSGD
from torch import Tensor, nn
from torch.nn import functional as F

FLOP = 4.136e9  # per image: three passes of 724,406,816 multiply-adds, without conv1's gradient of the pixels
CLASSES = 1000


class UsualDropout(nn.Dropout):
    def forward(self, x: Tensor, _keys: Tensor | None = None) -> Tensor:
        return super().forward(x)


def usual() -> nn.Module:
    model = AlexNet("paper")
    model.norm1, model.norm2 = (nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2) for _ in range(2))
    model.drop6, model.drop7 = UsualDropout(), UsualDropout()
    return model


def step_of(model: nn.Module, batch: int, device: str, *, dtype: torch.dtype, last: bool, compiled: bool, ours: bool) -> Callable[[], Any]:
    """Return a function that does a whole training step."""
    layout = torch.channels_last if last else torch.contiguous_format
    model = model.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    images = (torch.randn(batch, 3, 224, 224) * 50).to(device, memory_format=layout)
    labels, keys = torch.randint(0, CLASSES, (batch,), device=device), dropout_keys(0, 0, torch.arange(batch, device=device))
    optimizer: Any = PaperSGD(model, RATES["paper"]) if ours else torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4)
    if ours:
        optimizer.set_rates(0.01, 1.0, 0.01)
    network = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            logits = network(images, keys)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def variants(batch: int, device: str) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return the function that makes the step of each row."""

    def made(make: Callable[[], nn.Module], dtype: torch.dtype, *, compiled: bool = False, last: bool = True) -> Callable[[], Callable[[], Any]]:
        return lambda: step_of(make(), batch, device, dtype=dtype, last=last, compiled=compiled, ours=make is ours)

    ours, half, whole = partial(AlexNet, "paper"), torch.bfloat16, torch.float32
    table = {
        "usual": made(usual, whole, last=False),
        "compiled": made(usual, half, compiled=True),
        "ours float32": made(ours, whole),
        "ours bfloat16": made(ours, half),
        "ours bfloat16 compiled": made(ours, half, compiled=True),
    }
    if device == "cuda":
        table |= {
            "ours float16": made(ours, torch.float16),
            "ours float16 compiled": made(ours, torch.float16, compiled=True),
        }
    return table


def matrix_rate(device: str) -> float:
    """Return the FLOP/s of bfloat16 matrix products."""
    a, b = (torch.randn(4096, 4096, device=device).bfloat16() for _ in range(2))
    a @ b
    best = float("inf")
    for _ in range(3):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * 4096**3 / best


def steps(batch: int, device: str, rounds: int, only: list[str]) -> list[dict[str, Any]]:
    contestants = {name: make() for name, make in variants(batch, device).items() if not only or name in {*only, "usual", "compiled"}}
    for step in contestants.values():  # compiles the step and touches all memory
        for _ in range(4 if device == "cuda" else 2):
            step()
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    matrices = []
    count = 50 if device == "cuda" else 2
    for _ in range(rounds):
        matrices.append(matrix_rate(device))
        for name, step in contestants.items():
            start = time.perf_counter()
            for _ in range(count):
                step()
            rates[name].append(count * batch / (time.perf_counter() - start))
            print(f"{name}: {rates[name][-1]:.1f} images/s", file=sys.stderr, flush=True)
    table = []
    for name, measured in rates.items():
        ratio = {other: statistics.median(a / b for a, b in zip(measured, rates[other], strict=True)) for other in ("usual", "compiled")}
        share = statistics.median(FLOP * rate / matrix for rate, matrix in zip(measured, matrices, strict=True))
        table.append({"name": name, "rate": statistics.median(measured), "rates": measured, "share": share, **ratio})
    return table


def attached(shards: Path, batch: int, device: str, rounds: int) -> dict[str, float]:
    """Train on shards and on noise, alternating; return both rates, their ratio, and the share of time spent waiting."""
    command = [Path(sys.executable).parent / "alextrain", "run", shards, "--preset", "paper", "--batch-size", batch, "--steps", 12]
    command += ["--precision", "bfloat16", "--device", device, "--set", "log_steps=1", "--set", "schedule=fixed"]
    found: dict[str, list[float]] = {"shards": [], "synthetic": [], "waited": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for kind, options in (("synthetic", ["--data", "synthetic"]), ("shards", [])):
                out = Path(folder) / f"{kind}-{number}"
                done = subprocess.run(
                    [*map(str, command), *options, "--out", out],
                    capture_output=True,
                    text=True,
                    env=os.environ | {"OMP_NUM_THREADS": ""},
                    check=False,
                )
                rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
                measured = [row for row in rows if row["event"] == "step" and row["step"] > 4]
                assert measured, done.stderr
                found[kind].append(statistics.median(row["images_per_s"] for row in measured))
                if kind == "shards":
                    found["waited"].append(statistics.median(row["wait_share"] for row in measured))
    ratio = statistics.median(a / b for a, b in zip(found["shards"], found["synthetic"], strict=True))
    return {name: statistics.median(values) for name, values in found.items()} | {"ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--tf32", action="store_true", help="TF32 for float32 matrix products and convolutions on a GPU")
    parser.add_argument("--only", action="append", default=[], help="row of the table to measure beside the first two; repeatable")
    parser.add_argument("--loader", type=Path, help="folder of shards")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    device = "cuda" if arguments.device == "gpu" else "cpu"
    names = variants(arguments.batch, device)
    if unknown := [name for name in arguments.only if name not in names]:
        parser.error(f"--only: there is no {', '.join(unknown)}, only {', '.join(names)}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.tf32
    table = steps(arguments.batch, device, arguments.rounds, arguments.only)
    place = torch.cuda.get_device_name() if arguments.device == "gpu" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{place}, Python {platform.python_version()}, torch {torch.__version__}; batch {arguments.batch}, {arguments.rounds} rounds\n")
    print(f"{'':<24} {'images/s':>9} {'min - max':>15} {'usual':>7} {'compiled':>9} {'share':>7}")
    for row in table:
        spread = f"{min(row['rates']):.0f} - {max(row['rates']):.0f}"
        print(f"{row['name']:<24} {row['rate']:>9.1f} {spread:>15} {row['usual']:>6.2f}x {row['compiled']:>8.2f}x {row['share']:>6.0%}")
    facts: dict[str, Any] = {"place": place, "torch": torch.__version__, "table": table}
    if arguments.loader:
        facts["loader"] = found = attached(arguments.loader, arguments.batch, arguments.device, arguments.rounds)
        print(f"\nbfloat16, from shards {found['shards']:.1f} images/s, from memory {found['synthetic']:.1f}: {found['ratio']:.3f}", end="")
        print(f"; {found['waited']:.1%} of the time waiting")
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
