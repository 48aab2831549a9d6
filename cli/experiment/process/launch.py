"""Choose device and ranks; start a command again as the ranks of torchrun's elastic agent.

A process that torchrun started (this module's or the user's) finds RANK and related variables in
its environment (model/environment.py), and joins the other ranks.
"""

import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from alexprep.model.distributed import Ranks
from alexprep.model.environment import launched
from alexprep.pipeline.errors import DataError

from .signals import REQUEUE, SIGNALS, STOPPED

INTERRUPTED = 130  # exit code: 128 plus the number of SIGINT


@dataclass(frozen=True)
class Place:
    """Device and number of ranks that do the work."""

    device: str  # "cpu" or "gpu"
    ranks: int
    note: str = ""  # difference from what was asked for, if any


def choose_place(device: str, gpus: int | None, cpu_ranks: int | None) -> Place:
    """Return the place asked for, or the closest one that this machine has, with a note.

    Raises DataError if `device` is "gpu" and no GPU can be used, ValueError for contradictory arguments.
    """
    if cpu_ranks and (gpus or device == "gpu"):
        raise ValueError("--cpu-ranks trains on the CPU: it cannot be combined with --gpus or --device gpu")
    if gpus and device == "cpu":
        raise ValueError("--gpus cannot be combined with --device cpu")
    launcher = launched()
    # ranks that a launcher has started: their number is fixed
    joining = None if launcher is None else launcher.world_size
    if cpu_ranks or device == "cpu":
        return Place("cpu", joining or cpu_ranks or 1)
    count = _gpus()
    if count == 0:
        if device == "gpu":
            raise DataError(_why_no_gpu())
        note = f"{_why_no_gpu().partition(': use device')[0]}. Going on in one process on the CPU" if gpus and not joining else ""
        return Place("cpu", joining or 1, note)
    if joining:
        return Place("gpu", joining)
    note = f"{gpus} GPUs were asked for, this machine has {count}: going on with {count}" if gpus and gpus > count else ""
    return Place("gpu", min(gpus or 1, count), note)


def alone(device: str) -> Place:
    """Return the place of one process; DataError under torchrun: every rank would do the work."""
    if launched():
        raise DataError("this command runs in one process: start it without torchrun")
    return choose_place(device, None, None)


def this_process() -> Ranks:
    """Return this process as the only rank, on a GPU if there is one; DataError under torchrun."""
    gpu = alone("auto").device == "gpu"
    return Ranks(device=torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu"))


def _gpus() -> int:
    if not torch.cuda.device_count():
        return 0
    from alexprep.pipeline.batches.dali_engine import gpu_count  # imports DALI; only GPUs need it

    return min(torch.cuda.device_count(), gpu_count())


def _why_no_gpu() -> str:
    try:
        from alexprep.pipeline.batches.dali_engine import require_gpu

        require_gpu(0)
    except DataError as error:
        return str(error)
    return f"DALI sees a GPU but torch {torch.__version__} does not: install a torch built for CUDA"


def launch(ranks: int, command: Sequence[str], max_restarts: int = 0) -> tuple[int, str]:
    """Run a command as `ranks` ranks on this machine; restart all if one fails. Return the exit code, and a message for people or ""."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # the failed rank has already printed its error
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # seconds for a step and a checkpoint before the ranks are killed
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.2,
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",  # the ranks receive it too
    )
    program, *arguments = command
    with tempfile.TemporaryDirectory() as folder:
        os.environ[STOPPED] = str(Path(folder) / "stopped")
        code, message = _run(lambda: elastic_launch(config, program)(*arguments))
        if code and Path(os.environ[STOPPED]).exists():
            return REQUEUE, message
    if code == REQUEUE:
        return (
            1,
            "Error: the ranks were ended by a signal before they could write a checkpoint; --resume continues from an earlier one, if there is one",
        )
    return code, message


def _run(ranks: Callable[[], object]) -> tuple[int, str]:
    """Run the ranks; return the exit code and a message. The code is REQUEUE if SIGTERM or SIGUSR1 ended them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        ranks()
    except SignalException as error:
        if error.sigval in SIGNALS:
            return REQUEUE, ""
        return INTERRUPTED, "interrupted; --resume continues from the last checkpoint, if there is one"
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # killed, so the rank printed nothing
            killed = f"Error: rank {rank} was killed by signal {-failure.exitcode}"
            return 1, f"{killed}; --resume continues from the last checkpoint, if there is one"
        return 1, ""
    return 0, ""
