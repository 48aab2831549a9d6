"""Several ranks of one training run, each a process of its own, over gloo."""

import os
import tempfile
import traceback
from pathlib import Path

import torch
from torch import distributed, multiprocessing


def on_ranks(count, function, *arguments):
    """Return what `function(rank, count, *arguments)` returns on each rank."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (count, folder, function, arguments), nprocs=count)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _rank(rank, count, folder, function, arguments):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    try:
        torch.save(function(rank, count, *arguments), Path(folder) / f"{rank}.pt")
        distributed.barrier()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        distributed.destroy_process_group()
