"""Several ranks of one training run, each a process of its own, over gloo, or NCCL."""

import os
import tempfile
import traceback
from pathlib import Path

import torch
from torch import distributed, multiprocessing


def on_ranks(count, function, *arguments, backend="gloo"):
    """Return what `function(rank, count, *arguments)` returns on each rank."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (count, folder, backend, function, arguments), nprocs=count)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _rank(rank, count, folder, backend, function, arguments):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    if backend == "nccl":
        torch.cuda.set_device(rank)
        torch.backends.cudnn.allow_tf32 = False
    distributed.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    try:
        torch.save(function(rank, count, *arguments), Path(folder) / f"{rank}.pt")
        distributed.barrier()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        distributed.destroy_process_group()
