"""`alextrain run --dry-run`: everything that a run does, once, with one batch, in a folder that is deleted afterwards."""

import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from alexprep.model.distributed import Ranks

from .common import say
from .runs import RunFolder
from .safety import Stop
from .settings import Settings
from .training import Run


def try_out(data: Path, settings: Settings, ranks: Ranks, cache: dict[str, Any], stop: Stop) -> None:
    """Take one step, write a checkpoint, evaluate a batch with each number of views, draw the report; say what it took."""
    folder = RunFolder(Path(ranks.from_first(lambda: tempfile.mkdtemp(prefix="alextrain-dry-run-"))))
    try:
        training = Run(data, folder, replace(settings, steps=1, log_steps=1, loggers=""), ranks, cache, most_evaluated=1)
        if ranks.first:
            folder.write_settings(settings)
        start = time.perf_counter()
        training.train(stop)
        taken = time.perf_counter() - start
    finally:
        if ranks.first:
            shutil.rmtree(folder.directory, ignore_errors=True)
    if ranks.first:
        epochs = f"{settings.epochs} epochs of {training.trainer.pace.epoch_steps:,} steps"
        steps = f", of which {settings.steps:,} steps are asked for" if settings.steps else ""
        say(f"dry run: all is well. One step, checkpoint, evaluation and report took {taken:.1f} s; {_memory(ranks)}. The run is {epochs}{steps}")


def _memory(ranks: Ranks) -> str:
    if ranks.device.type == "cuda":
        return f"at most {torch.cuda.max_memory_allocated(ranks.device) / 1e9:.1f} GB of the GPU's memory"
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB of memory on rank 0"
