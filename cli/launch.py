"""One process or several: the command either does the work itself, or starts itself again as the ranks of torchrun's elastic agent.

A process that torchrun started (ours or the user's own) finds RANK and its like in its environment (model/environment.py) and joins.
"""

import logging
import os
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from alexprep.model.environment import launched
from alexprep.pipeline.errors import DataError

from .common import say
from .entry import INTERRUPTED, again
from .safety import REQUEUE, SIGNALS, STOPPED


@dataclass(frozen=True)
class Place:
    """Where the work is done."""

    device: str  # "cpu" or "gpu"
    ranks: int


def choose_layout(device: str, gpus: int | None, cpu_ranks: int | None) -> Place:
    """Return the layout asked for, or the nearest this machine has, with a line that says so.

    Raises DataError if `device` "gpu" is asked for and cannot be had, click.UsageError for a contradiction.
    """
    if cpu_ranks and (gpus or device == "gpu"):
        raise click.UsageError("--cpu-ranks trains on the CPU: it cannot be combined with --gpus or --device gpu")
    if gpus and device == "cpu":
        raise click.UsageError("--gpus cannot be combined with --device cpu")
    launcher = launched()
    joining = None if launcher is None else launcher.world_size  # then it is not for us to say how many there are
    if cpu_ranks or device == "cpu":
        return Place("cpu", joining or cpu_ranks or 1)
    count = _gpus()
    if count == 0:
        if device == "gpu":
            raise DataError(_why_no_gpu())
        if gpus and not joining:
            say(f"{_why_no_gpu().partition(': use device')[0]}. Going on in one process on the CPU")
        return Place("cpu", joining or 1)
    if joining:
        return Place("gpu", joining)
    if gpus and gpus > count:
        say(f"{gpus} GPUs were asked for, this machine has {count}: going on with {count}")
    return Place("gpu", min(gpus or 1, count))


def alone(device: str) -> str:
    """Return "cpu" or "gpu" for a command that is one process; DataError under torchrun, where several would do the same work."""
    if launched():
        raise DataError("this command is one process: start it without torchrun")
    return choose_layout(device, None, None).device


def _gpus() -> int:
    import torch

    if not torch.cuda.device_count():
        return 0
    from alexprep.pipeline.batches.dali_engine import gpu_count  # imports DALI, which a CPU does not need

    return min(torch.cuda.device_count(), gpu_count())


def _why_no_gpu() -> str:
    import torch

    try:
        from alexprep.pipeline.batches.dali_engine import require_gpu

        require_gpu(0)
    except DataError as error:
        return str(error)
    return f"DALI sees a GPU but torch {torch.__version__} does not: install a torch built for CUDA"


def launch(ranks: int, arguments: list[str], max_restarts: int = 0) -> int:
    """Run `alextrain ARGUMENTS` as that many ranks on this machine, again if one fails; return the exit code."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the rank itself has said what was wrong
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # a step and a checkpoint, before the ranks are killed
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
        signals_to_handle="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",  # the ranks get the same one
    )
    program, *command = [*again("alextrain"), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        os.environ[STOPPED] = str(Path(folder) / "stopped")
        code = _run(lambda: elastic_launch(config, program)(*command))
        if code and Path(os.environ[STOPPED]).exists():
            return REQUEUE
    if code == REQUEUE:
        say("Error: the ranks were ended by a signal before they could write a checkpoint; --resume continues from an earlier one, if there is one")
        return 1
    return code


def _run(ranks: Callable[[], object]) -> int:
    """Run the ranks; return the exit code, REQUEUE if a signal that asks for it has ended them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        ranks()
    except SignalException as error:
        if error.sigval in SIGNALS:
            return REQUEUE
        say("interrupted; --resume continues from the last checkpoint, if there is one")
        return INTERRUPTED
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:  # killed: it could not say so itself
            say(f"Error: rank {rank} was killed by signal {-failure.exitcode}; --resume continues from the last checkpoint, if there is one")
        return 1
    return 0
