"""Folders of classes: what is an image, what is passed over, what is refused."""

import json
import os
import subprocess

import pytest
from alexprep.pipeline.errors import DataError, UndecodableImage
from alexprep.pipeline.sources import Place, find_source

from ....support.commands import command
from ....support.images import make_images
from ....support.sources import listed


def test_splits_and_classes_are_found_and_sorted(tmp_path):
    make_images(tmp_path, {"val/b": 1, "train/b": 1, "train/a": 2})
    source = find_source(tmp_path)

    assert source.classes == ["a", "b"]
    assert listed(source) == {
        "train": [("train/a/000.JPEG", "a"), ("train/a/001.JPEG", "a"), ("train/b/000.JPEG", "b")],
        "val": [("val/b/000.JPEG", "b")],
    }


def test_class_folders_alone_are_the_training_split(tmp_path):
    make_images(tmp_path, {"b": 1, "a": 1})

    assert listed(find_source(tmp_path)) == {"train": [("train/a/000.JPEG", "a"), ("train/b/000.JPEG", "b")]}


def test_a_class_may_be_called_train(tmp_path):
    make_images(tmp_path, {"car": 1, "train": 1})

    assert listed(find_source(tmp_path)) == {"train": [("train/car/000.JPEG", "car"), ("train/train/000.JPEG", "train")]}


def test_an_empty_class_folder_keeps_its_label(tmp_path):
    make_images(tmp_path, {"train/a": 0, "train/b": 1, "val/a": 1})

    assert find_source(tmp_path).classes == ["a", "b"]


def test_a_key_is_the_path_below_the_source_whatever_the_depth(tmp_path):
    make_images(tmp_path, {"train/a/deep/er": 1, "train/b": 1})
    source = find_source(tmp_path)
    key, _, place = source.listings()[0].rows()[0]

    assert key == b"train/a/deep/er/000.JPEG"
    assert source.read("train", place) == (tmp_path / os.fsdecode(key)).read_bytes()


def test_hidden_files_are_passed_over_and_loose_ones_noted(tmp_path):
    make_images(tmp_path, {"train/a": 1})
    for name in ("train/a/.DS_Store", "train/a/._000.JPEG", "train/labels.csv"):
        (tmp_path / name).touch()
    source = find_source(tmp_path)

    assert listed(source) == {"train": [("train/a/000.JPEG", "a")]}
    assert any("1 files outside the class folders" in note and "labels.csv" in note for note in source.notes())


def test_classes_without_images_are_noted(tmp_path):
    make_images(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1})

    assert any("1 of 2 classes have no image in val (b)" in note for note in find_source(tmp_path).notes())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "no images under"),
        ({"train": 2, "val/a": 1}, "train has 2 files and no class folders"),
        ({"train/a": 1, "val/a": 1, "val/b": 1}, "the val split has classes that train does not have: b"),
        ({"train/a": 1, "val/a": 1, "valid/a": 1}, "has both"),
    ],
)
def test_a_folder_of_another_shape_is_explained(tmp_path, tree, message):
    make_images(tmp_path, tree)

    with pytest.raises(DataError, match=message):
        find_source(tmp_path)


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(DataError, match="no folder .*nowhere: expected"):
        find_source(tmp_path / "nowhere")


@pytest.mark.process
def test_links_in_circles_sockets_and_links_to_folders_are_quarantined(tmp_path):
    import socket

    make_images(tmp_path / "src", {"train/a": 2, "train/b": 2})
    (tmp_path / "src/train/a/up").symlink_to("..")
    (tmp_path / "src/train/a/loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "src/train/b/sock"))
        run = command("alexprep", "shard", "--src", tmp_path / "src", "--out", tmp_path / "out", "--size", "32", "--max-bad", "0.9", "--json")

    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["splits"]["train"]["records"] == 4
    assert (tmp_path / "out/quarantine.jsonl").read_text().count("not a regular file") == 3


@pytest.mark.process
def test_a_file_that_cannot_be_read_is_named(tmp_path):
    make_images(tmp_path / "src", {"train/a": 2})
    (tmp_path / "src/train/a/m.JPEG").symlink_to("/proc/self/mem")
    run = command("alexprep", "shard", "--src", tmp_path / "src", "--out", tmp_path / "out", "--size", "32")

    assert run.returncode == 1
    assert f"Error: {tmp_path}/src/train/a/m.JPEG: Input/output error" in run.stderr


@pytest.mark.process
def test_folders_a_thousand_deep_are_refused_with_a_message(tmp_path):
    make_images(tmp_path, {"train/a": 1, "train/b": 1})
    here = os.open(tmp_path / "train/a", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    try:
        with pytest.raises((DataError, OSError), match="a thousand deep|File name too long"):
            find_source(tmp_path)
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "train"], check=True)  # pytest's own cleaning recurses, too


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path):
    make_images(tmp_path, {"a": 1})
    os.mkfifo(tmp_path / "a/pipe")  # opening it would wait for ever
    (tmp_path / "a/link").symlink_to("gone")
    source = find_source(tmp_path)

    assert len(source.listings()[0]) == 3
    with pytest.raises(UndecodableImage, match="not a regular file"):
        source.read("train", Place(b"a/pipe", -1, -1, 0))
    with pytest.raises(UndecodableImage, match="a broken symbolic link"):
        source.read("train", Place(b"a/link", -1, -1, -1))


def test_a_source_that_vanishes_is_not_taken_for_a_bad_image(tmp_path):
    make_images(tmp_path, {"a": 1})
    source = find_source(tmp_path)
    (tmp_path / "a/000.JPEG").unlink()

    with pytest.raises(FileNotFoundError):
        source.read("train", source.listings()[0].take_one(0))
