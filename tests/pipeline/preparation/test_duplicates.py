"""What is there twice."""

import shutil

import numpy as np
import pytest
from alexprep.pipeline import read_manifest
from alexprep.pipeline.preparation.duplicates import DuplicateSearch, close_pairs
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ...support.commands import command
from ...support.images import jpeg, make_images
from ...support.shards import make_shards


@pytest.mark.process
def test_duplicates_are_equal_bytes_anywhere_and_nearly_equal_pixels_across_splits(tmp_path):
    make_images(tmp_path / "src", {"train/a": 20, "val/a": 3})
    shutil.copy(tmp_path / "src/train/a/003.JPEG", tmp_path / "src/train/a/copy.JPEG")
    (tmp_path / "src/val/a/again.JPEG").write_bytes(jpeg(np.asarray(Image.open(tmp_path / "src/train/a/005.JPEG")), quality=60))
    make_shards(tmp_path / "src", tmp_path / "out", size=64)
    search = DuplicateSearch(read_manifest(tmp_path / "out"))
    list(search.run())

    assert {(twins.kind, tuple(sorted(twins.where))) for twins in search.found} == {
        ("same bytes", ("train/a/003.JPEG", "train/a/copy.JPEG")),
        ("nearly the same pixels", ("train/a/005.JPEG", "val/a/again.JPEG")),
    }
    said = command("alexprep", "verify", tmp_path / "out", "--duplicates").stdout
    assert "same bytes: " in said
    assert "2 groups of duplicates" in said


@given(hashes=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=8), flips=st.sets(st.integers(0, 63), max_size=6))
def test_close_pairs_are_those_of_a_plain_double_loop(hashes, flips):
    twin = hashes[0]
    for bit in flips:
        twin ^= 1 << bit
    table = np.array([*hashes, twin], np.uint64)
    half = len(table) // 2
    ours, others = np.arange(half), np.arange(half, len(table))
    expected = {(i, j) for i in ours.tolist() for j in others.tolist() if (int(table[i]) ^ int(table[j])).bit_count() <= 3}

    assert close_pairs(table, ours, others) == expected
