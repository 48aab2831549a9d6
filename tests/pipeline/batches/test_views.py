"""Which part of a record a view is."""

import numpy as np
import pytest
import torch
from alexprep.pipeline import Loader, compute_stats, read_manifest
from alexprep.pipeline.batches import reference
from alexprep.pipeline.batches.views import windows

from ...support.loaders import CROP
from ...support.shards import stream


def test_a_crop_of_the_whole_record_and_a_crop_of_odd_room_are_exact(shards):
    for crop in (64, 47, 1):
        loader = Loader(shards / "raw", crop=crop, batch_size=8)
        (batch,) = stream(loader, 1)
        assert np.array_equal(batch.images.numpy(), reference.batch(loader.records, loader.config, loader.stats, 0))
        ten = Loader(shards / "raw", split="val", views="ten", crop=crop, batch_size=8)
        (batch,) = stream(ten, 1)
        assert np.array_equal(batch.images.numpy(), reference.batch(ten.records, ten.config, ten.stats, 0))


def test_without_mirroring_every_view_is_the_same_crop_unmirrored(shards):
    options = {"crop": CROP, "mean": "none", "colour": 0.0, "batch_size": 64, "seed": 3}
    mirrored, plain = (Loader(shards / "raw", mirror=mirror, **options) for mirror in (True, False))
    with_, without = next(iter(mirrored)), next(iter(plain))
    same_way = (with_.images == without.images).flatten(1).all(1)
    other_way = (with_.images.flip(3) == without.images).flatten(1).all(1)

    assert torch.equal(with_.records, without.records)
    assert bool((same_way | other_way).all())
    assert 16 <= int(other_way.sum()) <= 48
    assert np.array_equal(without.images.numpy(), reference.batch(plain.records, plain.config, compute_stats(read_manifest(shards / "raw")), 0))
    with pytest.raises(ValueError, match="mirror must be true or false"):
        Loader(shards / "raw", mirror=2, **options)


def test_ten_views_are_corners_and_centre_then_those_of_the_mirrored_image():
    """torchvision's order; 256 - 224 = 32 pixels of room."""
    assert [tuple(w) for w in windows("ten", 32)] == [
        *((0, 0, 0), (0, 32, 0), (32, 0, 0), (32, 32, 0), (16, 16, 0)),
        *((0, 32, 1), (0, 0, 1), (32, 32, 1), (32, 0, 1), (16, 16, 1)),
    ]
