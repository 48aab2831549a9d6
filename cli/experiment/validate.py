"""Check that a run can start, before anything is made."""

from pathlib import Path

import torch
from alexprep.model.training.parallel_layout import TOWERS, Name, unfit
from alexprep.pipeline import DataError, Manifest, read_manifest

from . import synthetic
from .build import builder, choose_layout
from .config import RunConfig
from .process.loggers import check_installed
from .splits import validation_split


def check_data(directory: Path, settings: RunConfig, world_size: int) -> Manifest:
    """Return the data set if it can be trained on with these settings. DataError or ValueError says why not, before anything is started or made."""
    manifest = synthetic.manifest(settings) if directory == synthetic.NOWHERE else read_manifest(directory)
    records = manifest.split("train").records
    check_installed(settings.run.loggers)
    name: Name = "data"
    if not settings.alexnet:
        if settings.trainer.parallel not in ("auto", "data"):
            raise DataError(
                f"--parallel {settings.trainer.parallel} is for the AlexNets of this project; train any other network with --parallel data"
            )
        if not settings.network.model:
            with torch.device("meta"):
                builder(settings, max(2, len(manifest.classes)))()
    else:
        with torch.device("meta"):
            # ValueError for an impossible network
            whole = builder(settings, max(2, len(manifest.classes)))()
        name = choose_layout(settings, whole, world_size)[0]
        why_not = unfit(name, whole, world_size)
        if settings.trainer.compile and name != "data" and world_size > 1:
            why_not = f"--compile cannot compile the exchanges between ranks of --parallel {name}; use --parallel data, or no --compile"
        if why_not:
            raise DataError(why_not)
    settings.loader(world_size=world_size // TOWERS if name == "towers" and world_size > 1 else world_size)
    if records < settings.data.batch_size:
        raise DataError(f"{directory} has {records} training records, fewer than one batch of {settings.data.batch_size}; use a smaller --batch-size")
    if len(manifest.classes) < 2:
        raise DataError(f"{directory} has {len(manifest.classes)} class; training needs at least two")
    if settings.trainer.schedule == "plateau" and validation_split(manifest) is None:
        raise DataError(f"{directory} has no val split, and the plateau schedule follows the validation error: use --set schedule=fixed")
    if settings.data.crop > manifest.config.size:
        raise DataError(
            f"crop {settings.data.crop} does not fit into the records of {directory}, {manifest.config.size} pixels a side; use a smaller --crop"
        )
    return manifest
