"""Try everything that a run does once, with one batch, in a folder that is deleted afterwards."""

import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alexprep.model.distributed import Ranks

from .config import RunConfig
from .process.signals import Stop
from .run import Run


def try_out(data: Path, settings: RunConfig, ranks: Ranks, cache: dict[str, Any], stop: Stop, follow: Callable[[Run], None]) -> str:
    """Take one step, write a checkpoint, evaluate, write the report; return a summary for people.

    One batch is evaluated with each number of views.

    `follow` iterates over the run.
    """
    folder = Path(ranks.from_first(lambda: tempfile.mkdtemp(prefix="alextrain-dry-run-")))
    try:
        run = Run(settings.changed(steps=1, log_steps=1, loggers=""), data, folder, ranks=ranks, cache=cache, stop=stop, most_evaluated=1)
        start = time.perf_counter()
        follow(run)
        taken = time.perf_counter() - start
    finally:
        if ranks.first:
            shutil.rmtree(folder, ignore_errors=True)
    epochs = f"{settings.trainer.epochs} epochs of {run.trainer.epoch_steps:,} steps"
    steps = f"; it ends after {settings.trainer.steps:,} steps" if settings.trainer.steps else ""
    return f"dry run: all is well. One step, checkpoint, evaluation and report took {taken:.1f} s; {_memory(ranks)}. The run is {epochs}{steps}"


def _memory(ranks: Ranks) -> str:
    if ranks.device.type == "cuda":
        return f"at most {torch.cuda.max_memory_allocated(ranks.device) / 1e9:.1f} GB of the GPU's memory"
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of memory on rank 0"
