"""Which class has which label: one rule, whatever the shape."""

import json

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline.shards.manifest import read_manifest
from alexprep.pipeline.sources import find_source
from alexprep.pipeline.sources.classes import Unlabelled, label_of, ordered
from hypothesis import given
from hypothesis import strategies as st

from ...support import shapes
from ...support.commands import command
from ...support.images import make_images
from ...support.sources import hugging_face, keys, listed, names, refusal, table, wds


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        (7.0, 7),
        ("7", 7),
        ("7.0", 7),
        ("7.", 7),
        (" 11\n", 11),
        (b"3", 3),
        (np.float32(2).item(), 2),
        ("n01440764", "n01440764"),
        ("cat", "cat"),
        ("1e3", "1e3"),
    ],
    ids=repr,
)
def test_a_number_is_a_number_however_it_is_written(value, expected):
    assert label_of(value) == expected


@pytest.mark.parametrize("value", [None, -1, -1.0, "-1", "-1.0", b"-1", float("nan"), "", "  ", "nan", "null", "<NA>"], ids=repr)
def test_nothing_and_negative_numbers_are_no_label(value):
    assert isinstance(label_of(value), Unlabelled)


@pytest.mark.parametrize("value", [1.5, "1.5", "-1.5", True, [], {}, 1 << 40, b"\xff"], ids=repr)
def test_what_is_no_label_is_refused(value):
    with pytest.raises(ValueError, match=r"label|decode"):
        label_of(value)


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_classes_that_are_numbers_are_ordered_as_numbers(values):
    assert ordered(map(str, values)) == [str(value) for value in sorted(values)]


LABELS = {
    "integers": pa.array([11, 2, -1, 0], pa.int32()),
    "floats": pa.array([11.0, 2.0, None, 0.0], pa.float32()),
    "texts": pa.array(["11", "2", "-1", "0"]),
    "texts of floats": pa.array(["11.0", "2.0", "-1.0", "0.0"]),
    "dictionary": pa.array(["11", "2", None, "0"]).dictionary_encode(),
    "decimals": pa.array([11, 2, None, 0], pa.decimal128(5, 1)),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_type_give_the_same_classes_in_numeric_order(tmp_path, kind):
    table(tmp_path / "train.parquet", range(4), label=LABELS[kind])
    source = find_source(tmp_path)

    assert source.classes == ["00", "02", "11"]
    assert listed(source)["train"] == [("train/00/3.jpg", "00"), ("train/02/1.jpg", "02"), ("train/11/0.jpg", "11")]
    assert any("1 images without a label" in note for note in source.notes())
    assert any("only 3 are used" in note for note in source.notes())


def test_class_folders_that_are_numbers_are_in_numeric_order(tmp_path):
    make_images(tmp_path, {f"train/{number}": 1 for number in (10, 9, 2, 0)})

    assert find_source(tmp_path).classes == ["0", "2", "9", "10"]


def slim(path, labels, **more):
    return shapes.tfrecord(
        [
            shapes.example({"image/encoded": b"x", "image/class/label": label, "image/filename": f"x{n}.jpg".encode()} | more)
            for n, label in enumerate(labels)
        ],
        path,
    )


@pytest.mark.process
def test_labels_that_count_from_0_where_1_was_expected_are_refused_or_named(tmp_path):
    path = slim(tmp_path / "train-00000-of-00001", [0, 1, 2])

    assert "the image x0.jpg at byte 12 has the label 0; expected labels from 1 on" in refusal(tmp_path)
    assert "--first-label 0" in refusal(tmp_path)
    assert [class_id for _, class_id in listed(find_source(path, first_label=0))["train"]] == ["0", "1", "2"]
    run = command("alexprep", "inspect", tmp_path, "--first-label", "0", "--json")
    assert json.loads(run.stdout)["classes"] == ["0", "1", "2"]


def test_labels_that_count_from_1_may_be_named_in_every_shape(tmp_path):
    table(tmp_path / "p/train.parquet", [0, 1], label=[1, 2])
    wds(tmp_path / "w/train.tar", [0], 1)

    assert find_source(tmp_path / "p", first_label=1).classes == ["0", "1"]
    assert find_source(tmp_path / "w", first_label=1).classes == ["0"]
    table(tmp_path / "q/train.parquet", [0, 1], label=[0, 1])
    assert "has the label 0; expected labels from 1 on" in refusal(tmp_path / "q", first_label=1)


def test_an_order_of_the_source_needs_numbers(tmp_path):
    make_images(tmp_path, {"a": 1, "b": 1})

    assert "does not give each class a number of its own" in refusal(tmp_path, label_order="source")


@pytest.mark.process
def test_classes_that_train_has_not_are_refused_or_left_out_with_a_count(tmp_path):
    make_images(tmp_path / "src", {"train/a": 4, "train/b": 4, "val/a": 2, "val/c": 3})

    assert "the val split has classes that train does not have: c (3 images)" in refusal(tmp_path / "src")
    assert "--skip-unknown-classes" in refusal(tmp_path / "src")
    run = command("alexprep", "shard", "--src", tmp_path / "src", "--out", tmp_path / "out", "--size", "32", "--skip-unknown-classes")
    manifest = read_manifest(tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert "3 images left out" in run.stdout
    assert manifest.left_out == {"val": {"classes": ["c"], "images": 3}}
    assert (manifest.classes, manifest.splits["val"].records) == (("a", "b"), 2)


@pytest.mark.process
def test_what_was_left_out_outlives_parts_and_a_later_append(tmp_path):
    make_images(tmp_path / "src", {"train/a": 140, "train/b": 4, "val/a": 2, "val/c": 3})
    make_images(tmp_path / "more", {"train/a/new": 2, "train/b/new": 1, "val/b/new": 1, "val/d": 1})
    for part in ("1/2", "2/2"):
        shard = ("shard", "--src", tmp_path / "src", "--out", tmp_path / "out", "--size", "16", "--skip-unknown-classes", "--part", part)
        assert command("alexprep", *shard).returncode == 0
    assert command("alexprep", "finalize", tmp_path / "out").returncode == 0
    run = command("alexprep", "append", tmp_path / "out", "--src", tmp_path / "more", "--skip-unknown-classes")

    assert run.returncode == 0, run.stderr
    assert read_manifest(tmp_path / "out").left_out == {"val": {"classes": ["c", "d"], "images": 4}}


def test_half_characters_and_huge_numbers_are_refused_and_break_nothing(tmp_path):
    for name, facts in (("a", {"label": "\ud800cat"}), ("b", {"label": 10**30})):
        shapes.tar([("x.jpg", b"x"), ("x.json", json.dumps(facts).encode())], tmp_path / f"{name}.tar")
        assert "is no label" in refusal(tmp_path / f"{name}.tar")
    table(tmp_path / "c.parquet", range(2), label=pa.array([10**30, 0], pa.decimal128(38, 0)))
    assert "no data set has so many classes" in refusal(tmp_path / "c.parquet")
    hugging_face(tmp_path / "d.parquet", {"label": names("\ud800", "b", "c")}, label=[0, 1, 2])
    assert "a name that is not UTF-8" in refusal(tmp_path / "d.parquet")
    shapes.tar([("x.jpg", b"x"), ("x.json", json.dumps({"label": 1, "filename": "\ud800.jpg"}).encode())], tmp_path / "e.tar")
    assert keys(tmp_path / "e.tar") == ["train/1/\\ud800.jpg"]
