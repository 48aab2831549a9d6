"""`alextrain run --data synthetic`: noise from memory in place of a data set.

It measures the trainer alone.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from alexprep.pipeline import Manifest, ShardConfig, Stats
from alexprep.pipeline.imaging.moments import Colours
from alexprep.pipeline.shards.manifest import Split
from alexprep.pipeline.shards.sidecar import Shard
from torch import Tensor

from .config import RunConfig

NOWHERE = Path("--data synthetic")  # stands for the data set's folder
RECORDS = 1_281_167  # training images of ILSVRC 2012, in 1000 classes
CLASSES = 1000


def manifest(settings: RunConfig) -> Manifest:
    """Return the manifest of a data set that has no files."""
    shards = (Shard("synthetic", RECORDS, 2 * RECORDS, "0" * 64),)
    classes = tuple(f"class {number}" for number in range(CLASSES))
    return Manifest(NOWHERE, "synthetic", ShardConfig(size=max(256, settings.data.crop)), classes, {"train": Split(shards, 0)}, {})


def stats(settings: RunConfig) -> Stats:
    """Return placeholder statistics: checkpoints must have some."""
    size = max(256, settings.data.crop)
    return Stats("train", 1, 1, Colours(np.zeros(3), np.eye(3), np.ones(3), np.eye(3)), np.zeros((size, size, 3), np.float32))


def batches(step: int, epoch_steps: int, settings: RunConfig, feed: tuple[int, int], device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield this rank's part of each batch from `step` to the end of the epoch.

    It is the same noise at every step: images float32[n,3,crop,crop], labels, record numbers.
    """
    rank, count = feed
    share = settings.data.batch_size // count
    generator = torch.Generator().manual_seed(settings.data.seed + rank)
    images = torch.randn(share, 3, settings.data.crop, settings.data.crop, generator=generator) * 60
    labels = torch.randint(0, CLASSES, (share,), generator=generator).to(device)
    images, records = images.to(device).contiguous(memory_format=torch.channels_last), torch.arange(share, device=device) + rank * share
    for _ in range(step, epoch_steps * (step // epoch_steps + 1)):
        yield images, labels, records
