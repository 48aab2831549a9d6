"""ILSVRC's tars of class tars and of validation images."""

import io
import tarfile

import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.sources import find_source

from ....support import shapes
from ....support.sources import listed


def test_one_tar_is_a_source(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path)

    assert {split: len(images) for split, images in listed(find_source(root / "ILSVRC2012_img_train.tar")).items()} == {"train": 24}


def test_two_members_of_one_name_in_a_class_tar_are_refused(tmp_path):
    shapes.tar([("n01440764_1.JPEG", b"x"), ("n01440764_1.JPEG", b"y")], tmp_path / "class.tar")
    shapes.tar([("n01440764.tar", (tmp_path / "class.tar").read_bytes())], tmp_path / "train.tar")

    with pytest.raises(DataError, match=r"two images called train/n01440764/n01440764_1\.JPEG"):
        find_source(tmp_path / "train.tar")


def test_an_empty_tar_is_no_source(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    (tmp_path / "train.tar").write_bytes(buffer.getvalue())

    with pytest.raises(DataError):
        find_source(tmp_path)
