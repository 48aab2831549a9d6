"""The definition of a batch: every engine gives it, bit for bit. A wrong crop, mirror or colour breaks this test."""

import numpy as np
import torch
from alexprep.pipeline.batches import reference

from ...support.loaders import each
from ...support.shards import stream


@each
def test_batches_are_the_references_bit_for_bit(every_loader):
    loader, stats = every_loader, every_loader.stats
    for step, batch in enumerate(stream(loader, len(loader) + 1)):  # into the second epoch
        expected = reference.batch(loader.records, loader.config, stats, step)

        assert batch.images.dtype == torch.float32
        assert batch.images.shape == expected.shape
        assert np.array_equal(batch.images.numpy(), expected)
        assert batch.labels.tolist() == loader.records.labels(batch.records.numpy()).tolist()
