"""Count the bytes that each rank sends per step in the three layouts, and compute the batch sizes at which the best layout changes.

python benchmarks/parallel.py [--ranks 2] [--width 1.0] [--batches 32,128] [--json FILE]

The ranks are processes of this machine over gloo. The times are a CPU's, where sending is copying; only the bytes carry over to other machines.
The crossover is calculated, for bfloat16 activations and gradients, by the formula that the counts are checked against.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from alexprep.model.distributed import Ranks
from alexprep.model.networks.alexnet import AlexNet
from alexprep.model.networks.layers import dropout_keys
from alexprep.model.networks.partition import sent
from alexprep.model.training.parallel_layout import NAMES, Name, bytes_a_step, lay_out, unfit
from torch import distributed, multiprocessing
from torch.nn import functional as F

STEPS = 3


def rank_of(rank: int, ranks: int, folder: str, name: Name, width: float, batch: int) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    whole = AlexNet("source", width=width)
    layout = lay_out(name, Ranks(rank, ranks), whole)
    model = whole if name == "data" else AlexNet("source", width=width, convs=layout.convs, fcs=layout.fcs)
    model.load_state_dict(layout.part(whole.state_dict()))
    network = layout.network(model.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    share = batch // layout.feed[1]
    images = (torch.randn(share, 3, 224, 224) * 50).to(memory_format=torch.channels_last)
    labels, keys = layout.of_batch(torch.zeros(share, dtype=torch.int64)), layout.of_batch(dropout_keys(0, 0, torch.arange(share)))
    times, before = [], {}
    for _ in range(STEPS):
        before, start = dict(sent), time.perf_counter()
        F.cross_entropy(network(images, keys), labels).backward()
        times.append(time.perf_counter() - start)
        model.zero_grad()
    counted = {kind: sent[kind] - before.get(kind, 0) for kind in sent}
    if rank == 0:
        Path(folder, "result.json").write_text(json.dumps({"bytes": sum(counted.values()), "kinds": counted, "seconds": min(times[1:])}))
    distributed.barrier()
    distributed.destroy_process_group()


def measured(ranks: int, name: Name, width: float, batch: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(rank_of, (ranks, folder, name, width, batch), nprocs=ranks)  # type: ignore[attr-defined]
        result: dict[str, Any] = json.loads(Path(folder, "result.json").read_text())
        return result


def crossover(whole: AlexNet, ranks: int, a: Name, b: Name) -> int | None:
    """Return the smallest batch at which `a` sends at least as much as `b`."""

    def more(batch: int) -> bool:
        size_a, size_b = (bytes_a_step(name, whole, ranks, batch, activation=2, gradient=2) for name in (a, b))
        return size_a >= size_b

    return next((batch for batch in range(ranks, 1 << 16, ranks) if more(batch)), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--batches", default="32,128")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with torch.device("meta"):
        whole = AlexNet("source", width=arguments.width)
    table = []
    print(f"{platform.machine()}, torch {torch.__version__}; {arguments.ranks} ranks, width {arguments.width}, float32\n")
    print(f"{'':<8} {'batch':>6} {'MB counted':>11} {'reckoned':>9} {'seconds a step':>15}")
    for batch in map(int, arguments.batches.split(",")):
        for name in NAMES:
            if unfit(name, whole, arguments.ranks):
                continue
            result = measured(arguments.ranks, name, arguments.width, batch)
            reckoned = bytes_a_step(name, whole, arguments.ranks, batch, activation=4, gradient=4)
            table.append({"name": name, "batch": batch, "reckoned": reckoned, **result})
            print(f"{name:<8} {batch:>6} {result['bytes'] / 1e6:>11.1f} {reckoned / 1e6:>9.1f} {result['seconds']:>15.2f}")
    crossings = {f"{a} over {b}": crossover(whole, arguments.ranks, a, b) for a, b in (("towers", "data"), ("hybrid", "data"), ("towers", "hybrid"))}
    print("\nfrom this batch on the first sends as much as the second (bfloat16): " + ", ".join(f"{k}: {v or 'never'}" for k, v in crossings.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"table": table, "crossover": crossings}, indent=1) + "\n")


if __name__ == "__main__":
    main()
