"""What a folder of class folders offers."""

import os

import pytest
from alexprep.pipeline.errors import DataError, UndecodableImage
from alexprep.pipeline.sources import FolderSource

from .conftest import make_images


def listed(source):
    return {
        listing.split: [(key, source.classes[label]) for key, label in zip(listing.keys, listing.labels, strict=True)]
        for listing in source.listings()
    }


def test_splits_and_classes_are_found_and_sorted(tmp_path):
    make_images(tmp_path, {"val/b": 1, "train/b": 1, "train/a": 2})
    source = FolderSource(tmp_path)

    assert source.classes == ["a", "b"]
    assert listed(source) == {
        "train": [("train/a/000.JPEG", "a"), ("train/a/001.JPEG", "a"), ("train/b/000.JPEG", "b")],
        "val": [("val/b/000.JPEG", "b")],
    }


def test_class_folders_alone_are_the_training_split(tmp_path):
    make_images(tmp_path, {"b": 1, "a": 1})

    assert listed(FolderSource(tmp_path)) == {"train": [("a/000.JPEG", "a"), ("b/000.JPEG", "b")]}


def test_a_class_may_be_called_train(tmp_path):
    make_images(tmp_path, {"car": 1, "train": 1})

    assert listed(FolderSource(tmp_path)) == {"train": [("car/000.JPEG", "car"), ("train/000.JPEG", "train")]}


def test_a_key_is_the_path_below_the_source_whatever_the_depth(tmp_path):
    make_images(tmp_path, {"train/a/deep/er": 1, "train/b": 1})
    source = FolderSource(tmp_path)
    key = source.listings()[0].keys[0]

    assert key == "train/a/deep/er/000.JPEG"
    assert source.read(key) == (tmp_path / key).read_bytes()


def test_hidden_files_are_passed_over_and_loose_ones_noted(tmp_path):
    make_images(tmp_path, {"train/a": 1})
    for name in ("train/a/.DS_Store", "train/a/._000.JPEG", "train/labels.csv"):
        (tmp_path / name).touch()
    source = FolderSource(tmp_path)

    assert listed(source) == {"train": [("train/a/000.JPEG", "a")]}
    assert any("1 files outside the class folders" in note and "labels.csv" in note for note in source.notes())


def test_classes_without_images_are_noted(tmp_path):
    make_images(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1})
    source = FolderSource(tmp_path)
    source.listings()

    assert any("1 of 2 classes have no image in val (b, ...)" in note for note in source.notes())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "no images under"),
        ({"train": 2, "val/a": 1}, "train has 2 files and no class folders"),
        ({"train/a": 1, "val/a": 1, "val/b": 1}, "the val split has classes that train has not: b"),
        ({"train/a": 1, "val/a": 1, "valid/a": 1}, "has both"),
    ],
)
def test_a_folder_of_another_shape_is_explained(tmp_path, tree, message):
    make_images(tmp_path, tree)

    with pytest.raises(DataError, match=message):
        FolderSource(tmp_path).listings()


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(DataError, match="no folder .*nowhere: expected"):
        FolderSource(tmp_path / "nowhere")


def test_what_is_no_regular_file_is_refused_without_being_opened(tmp_path):
    make_images(tmp_path, {"a": 1})
    os.mkfifo(tmp_path / "a/pipe")  # opening it would wait for ever
    (tmp_path / "a/link").symlink_to("gone")
    source = FolderSource(tmp_path)

    assert len(source.listings()[0]) == 3
    with pytest.raises(UndecodableImage, match="not a regular file"):
        source.read("a/pipe")
    with pytest.raises(UndecodableImage, match="a link to nowhere"):
        source.read("a/link")


def test_a_source_that_vanishes_is_not_taken_for_a_bad_image(tmp_path):
    make_images(tmp_path, {"a": 1})
    source = FolderSource(tmp_path)
    (tmp_path / "a/000.JPEG").unlink()

    with pytest.raises(FileNotFoundError):
        source.read("a/000.JPEG")
