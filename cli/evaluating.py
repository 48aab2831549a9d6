"""Loaders for the trainer, and the measuring of a checkpoint."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from alexprep.model.distributed import Ranks, cpus_of_a_rank
from alexprep.model.evaluator import Evaluation, evaluate
from alexprep.pipeline import DataError, Loader, Stats, read_manifest
from alexprep.pipeline.config import Views

from .building import builder, on_device
from .common import Bar
from .runs import checkpoint_settings, checkpoint_stats, load_checkpoint
from .settings import Settings

VIEWS: dict[int, Views] = {10: "ten", 1: "center"}


def open_loader(data: Path, settings: Settings, stats: Stats, ranks: Ranks, **changes: Any) -> Loader:  # noqa: ANN401  (fields of LoaderConfig)
    """Return this rank's loader."""
    gpu = ranks.device.type == "cuda"
    defaults = {
        "rank": ranks.rank,
        "world_size": ranks.world_size,
        "device": "gpu" if gpu else "cpu",
        "device_id": ranks.device.index if gpu else None,
        "threads": settings.threads or cpus_of_a_rank(),
    }
    config = settings.loader(**(defaults | changes))
    try:
        return Loader(data, config, stats=stats)
    except ValueError as error:
        raise DataError(f"{data}: {error}") from error


def evaluation(split: str, views: int, settings: Settings, ranks: Ranks) -> dict[str, Any]:
    """Return the loader's options for evaluation; every rank needs a place in a batch, and every record counts once, or none does."""
    return {"split": split, "views": VIEWS[views], "batch_size": max(settings.eval_batch_size, ranks.world_size), "on_bad": "raise"}


def evaluate_checkpoint(checkpoint: Path, data: Path, split: str, views: int, ranks: Ranks, cache: dict[str, Any], own: str = "") -> Evaluation:
    """Return the errors of a checkpoint on a split, with the mean image and the settings it was trained with.

    `own` is the package:function that makes the network, if it is none of this project's: a checkpoint's word is not enough to run code.
    """
    state = load_checkpoint(checkpoint)
    settings = checkpoint_settings(state)
    if settings.model != own:
        wanted = f"--model {settings.model}" if settings.model else "no --model"
        raise DataError(f"{checkpoint} is of a network that is made with {wanted}: give that, if you trust what it runs")
    manifest = read_manifest(data)
    classes = tuple(state["classes"])
    if manifest.classes != classes:
        different = next(
            (f"{ours!r} against {theirs!r}" for ours, theirs in zip(classes, manifest.classes, strict=False) if ours != theirs), "a different number"
        )
        raise DataError(f"{data} has other classes than the checkpoint was trained on ({len(manifest.classes)} and {len(classes)}; {different})")
    model = on_device(builder(settings, len(classes))(), ranks)
    try:
        model.load_state_dict(state["model"] | state.get("averages", {}))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise DataError(f"{checkpoint} does not fit its own settings: {str(error).splitlines()[0]}") from error
    loader = open_loader(data, settings, checkpoint_stats(state), ranks, **cache, **evaluation(split, views, settings, ranks))
    bar = Bar("eval", len(loader), "batches") if ranks.first else None

    def watched() -> Iterable[Any]:
        for number, batch in enumerate(loader, 1):
            yield batch
            if bar is not None:
                bar.at(number)

    result = evaluate(model, watched(), ranks)
    if bar is not None:
        bar.close()
    return result
