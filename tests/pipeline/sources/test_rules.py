"""What a split, a label and a part of a source is: one rule, whatever the shape; and what cannot be told is refused by name."""

import io
import itertools
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.shards.manifest import read_manifest
from alexprep.pipeline.sources import find_source
from alexprep.pipeline.sources.classes import Unlabelled, label_of, ordered
from alexprep.pipeline.sources.splits import WORDS, exact_split, folder_splits, is_junk, split_in
from hypothesis import given
from hypothesis import strategies as st

from ...support import shapes
from ...support.commands import command
from ...support.images import jpeg, make_images, picture
from ...support.shards import make_shards
from ...support.sources import every_image, listed


@pytest.fixture(scope="module")
def imagenet():
    return shapes.imagenet()


def splits_of(where, **options):
    return {listing.split: len(listing) for listing in find_source(where, **options).listings()}


def refusal(where, **options):
    with pytest.raises(DataError) as caught:
        find_source(where, **options)
    return str(caught.value)


def sample(number, label=0):
    return [(f"{number:03}.jpg", jpeg(picture(number))), (f"{number:03}.cls", str(label).encode())]


def wds(path, numbers, label=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    return shapes.tar([file for number in numbers for file in sample(number, label)], path)


def records(path, numbers, **features):
    path.parent.mkdir(parents=True, exist_ok=True)
    examples = [{"image": jpeg(picture(n)), "file_name": f"{n}.jpg".encode(), "label": n % 2} | features for n in numbers]
    return shapes.tfrecord([shapes.example(example) for example in examples], path)


def table(path, numbers, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = list(numbers)
    facts = {"image": [jpeg(picture(n)) for n in numbers], "filename": [f"{n}.jpg" for n in numbers], "label": [n % 2 for n in numbers]} | columns
    pq.write_table(pa.table(facts), path)
    return path


FILES = {"WebDataset": (wds, "tar"), "TFRecord": (records, "tfrecord"), "parquet": (table, "parquet")}

# Splits


@pytest.mark.parametrize("shape", FILES)
@pytest.mark.parametrize("word", [word for word in WORDS if WORDS[word] != "train"])
@pytest.mark.parametrize("place", ["{word}/00000.{ending}", "x-{word}-00000.{ending}", "{word}/deeper/part.{ending}", "{upper}/0.{ending}"])
def test_a_files_split_is_in_its_folders_or_its_name(tmp_path, shape, word, place):
    write, ending = FILES[shape]
    write(tmp_path / place.format(word="train", upper="TRAIN", ending=ending), [0, 1])
    write(tmp_path / place.format(word=word, upper=word.title(), ending=ending), [2, 3, 4])

    assert splits_of(tmp_path) == {"train": 2, WORDS[word]: 3}


@pytest.mark.parametrize("word", [word for word in WORDS if WORDS[word] != "train"])
@pytest.mark.parametrize("name", ["{word}", "{title}", "{word}set", "{word}_images", "ILSVRC2012_img_{word}", "{word}2012", "{title}Set"])
def test_a_folders_split_is_in_its_name(tmp_path, word, name):
    make_images(tmp_path, {f"{name.format(word='training', title='Training')}/a": 2, f"{name.format(word=word, title=word.title())}/a": 1})

    assert splits_of(tmp_path) == {"train": 2, WORDS[word]: 1}


def test_two_names_that_differ_in_the_splits_word_are_splits(tmp_path):
    make_images(tmp_path, {"flowers_train/rose": 2, "flowers_train/lily": 2, "flowers_val/rose": 1, "flowers_val/lily": 1})

    assert splits_of(tmp_path) == {"train": 4, "val": 2}
    assert folder_splits(["train_station", "beach"]) == {}


@pytest.mark.parametrize(
    "wrapper",
    ["ILSVRC2012", "imagenette2-320", "data", "a/b/c", "ILSVRC/Data/CLS-LOC", "datasets--x--y/snapshots/0123abc", "tensorflow_datasets/set/5.1.0"],
)
@pytest.mark.parametrize("shape", ["folder", "flat", *FILES])
def test_wrappers_are_descended_and_keys_do_not_have_them(imagenet, tmp_path, wrapper, shape):
    write = {
        "folder": shapes.folder,
        "flat": shapes.flat_folder,
        "WebDataset": shapes.webdataset,
        "TFRecord": shapes.tfds,
        "parquet": shapes.parquet,
    }[shape]
    write(imagenet, tmp_path / "bare")
    write(imagenet, tmp_path / "wrapped" / wrapper)
    (tmp_path / "wrapped" / wrapper.partition("/")[0] / "README.md").write_text("about it")
    if "snapshots" in wrapper:
        (tmp_path / "wrapped/datasets--x--y/blobs").mkdir()
        (tmp_path / "wrapped/datasets--x--y/blobs/0f0f").write_bytes(b"PAR1 as the hub's cache has it under another name")
    bare, wrapped = find_source(tmp_path / "bare"), find_source(tmp_path / "wrapped")

    assert listed(wrapped) == listed(bare)
    assert every_image(wrapped) == every_image(bare)
    assert any("the data set is in" in note for note in wrapped.notes())


def test_folders_of_annotations_and_of_other_systems_do_not_hide_the_data_set(tmp_path):
    make_images(tmp_path, {"ILSVRC/Data/CLS-LOC/train/a": 2, "ILSVRC/Data/CLS-LOC/train/b": 2, "ILSVRC/Data/CLS-LOC/val/a": 1})
    for below in ("ILSVRC/Annotations/CLS-LOC/train/a", "ILSVRC/ImageSets/CLS-LOC", "__MACOSX/ILSVRC/Data", "lost+found"):
        (tmp_path / below).mkdir(parents=True)
    (tmp_path / "ILSVRC/Annotations/CLS-LOC/train/a/0.xml").write_text("<box/>")
    (tmp_path / "__MACOSX/ILSVRC/Data/._x.JPEG").write_bytes(b"Mac OS X")

    assert splits_of(tmp_path) == {"train": 4, "val": 1}
    assert splits_of(tmp_path / "ILSVRC") == {"train": 4, "val": 1}
    assert find_source(tmp_path).shape.startswith("Kaggle's")


def test_a_folder_that_is_called_as_validation_is_that_split(tmp_path, monkeypatch):
    make_images(tmp_path, {"val/a": 1, "val/b": 1, "train/a": 3})
    wds(tmp_path / "tars/val/0.tar", [1])

    assert splits_of(tmp_path / "val") == {"val": 2}
    monkeypatch.chdir(tmp_path / "val")
    assert splits_of(".") == {"val": 2}
    (tmp_path / "val").rename(tmp_path / "dev")  # where people keep what they work on
    assert splits_of(tmp_path / "dev") == {"train": 2}
    assert any("though the folder is called dev" in note for note in find_source(tmp_path / "dev").notes())
    assert splits_of(tmp_path / "tars/val") == splits_of(tmp_path / "tars/val/0.tar") == {"val": 1}


def test_classes_in_one_folder_of_a_split_are_found_there(tmp_path):
    make_images(tmp_path, {"seg_train/seg_train/sea": 2, "seg_train/seg_train/ice": 2, "seg_test/seg_test/sea": 1, "seg_test/seg_test/ice": 1})

    assert listed(find_source(tmp_path))["test"] == [("test/ice/000.JPEG", "ice"), ("test/sea/000.JPEG", "sea")]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"train/a": 1, "train/b": 1, "holdout/a": 1, "holdout/b": 1}, "has holdout/ with images beside train/"),
        ({"train/a": 1, "val/a": 1, "test_unlabelled_extra/a": 1}, "has test_unlabelled_extra/ with images beside"),
        ({"train/a": 1, "training/a": 1}, "both train/ and training/ for the split 'train'"),
        ({"val/a": 1, "dev/a": 1, "train/a": 1}, "for the split 'val'"),
        ({"cat/train": 1, "cat/val": 1, "dog/train": 1, "dog/val": 1}, "cat would be a class, but it holds folders called train, val"),
        ({"one/train/a": 1, "one/val/a": 1, "two/train/a": 1, "two/val/a": 1}, "several folders with images"),
        ({"fold1/a": 1, "fold1/b": 1, "fold1/c": 1, "fold2/a": 1, "fold2/b": 1, "fold2/c": 1}, "the images lie deeper in them (a, b, c)"),
        ({"images": 3}, "holds images and no class folders"),
        ({"train/images": 3, "val/images": 1}, "no class folders: their labels are unknown"),
        ({"car": 1, "train/steam": 1, "train/diesel": 1}, "has car/ with images beside train/"),
        ({"train_a/cat": 1, "train_a/dog": 1, "val_b/cat": 1, "val_b/dog": 1}, "its name has other words beside the split's"),
        ({"x_train/cat": 1, "x_train/dog": 1, "x_holdout/cat": 1, "x_holdout/dog": 1}, "its name has other words beside the split's"),
    ],
)
def test_what_looks_like_a_split_or_a_wrapper_and_cannot_be_told_is_refused(tmp_path, tree, said):
    make_images(tmp_path, tree)

    assert said in refusal(tmp_path)
    run = command("alexprep", "shard", "--src", tmp_path, "--out", tmp_path.parent / f"{tmp_path.name}-out")
    assert (run.returncode, run.stderr) == (1, command("alexprep", "inspect", tmp_path).stderr)


def test_files_of_which_only_some_name_a_split_are_refused(tmp_path):
    for name in ("train-0.tar", "val-0.tar", "more-0.tar"):
        wds(tmp_path / name, [hash(name) % 1000])

    assert "more-0.tar names no split" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["train-val-0.tar", "train/dev-0.tar"])
def test_a_path_with_two_splits_is_refused(tmp_path, name):
    wds(tmp_path / name, [1])

    assert "two splits" in refusal(tmp_path)


def test_the_folders_in_a_tar_name_splits_if_its_own_path_does_not(tmp_path):
    files = [(f"{split}/{name}", data) for split, numbers in (("train", [1, 2]), ("val", [3])) for n in numbers for name, data in sample(n)]
    shapes.tar(files, tmp_path / "all.tar")
    shapes.tar(files, tmp_path / "train.tar")

    assert splits_of(tmp_path / "all.tar") == {"train": 2, "val": 1}
    assert "belongs to the split train by its name, but has the folder val in it" in refusal(tmp_path / "train.tar")


def test_folders_in_a_tar_are_splits_by_the_rule_of_folders_and_all_of_them_or_none(tmp_path):
    def files(*folders):
        return [(f"{folder}{name}", data) for number, folder in enumerate(folders) for name, data in sample(number)]

    shapes.tar(files("train/", "val_images/"), tmp_path / "a.tar")
    shapes.tar(files("train/", "val/", "more/"), tmp_path / "b.tar")
    shapes.tar(files("x/", "y/"), tmp_path / "c.tar")

    assert splits_of(tmp_path / "a.tar") == {"train": 1, "val": 1}
    assert "samples in others (more)" in refusal(tmp_path / "b.tar")
    assert splits_of(tmp_path / "c.tar") == {"train": 2}


def test_classes_of_a_split_may_have_the_same_folders_in_them(tmp_path):
    sides = {f"{split}/{kind}/{side}": 1 for split in ("train", "val") for kind in ("benign", "malignant") for side in ("40X", "100X", "200X")}
    make_images(tmp_path / "b", sides)

    assert find_source(tmp_path / "b").classes == ["benign", "malignant"]


def test_what_is_no_image_does_not_make_a_folder_one_of_images(tmp_path):
    make_images(tmp_path, {"train/a": 2, "train/b": 2})
    for below in ("ILSVRC2012_devkit_t12/COPYING", "ILSVRC2012_devkit_t12/evaluation/demo.m", "logs/run1/events.out.tfevents.1", "weights/best.ckpt"):
        (tmp_path / below).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / below).write_bytes(b"no image")
    source = find_source(tmp_path)

    assert listed(source).keys() == {"train"}
    assert any("2 folders beside the splits are not read (logs, weights)" in note for note in source.notes())


def test_images_without_an_ending_are_images(tmp_path):
    make_images(tmp_path, {"wrapper/train/a": 1, "wrapper/train/b": 1, "holdout/a": 1})
    for path in tmp_path.rglob("*.JPEG"):
        path.rename(path.with_suffix(""))

    assert "has several folders with images" in refusal(tmp_path)
    assert splits_of(tmp_path / "wrapper") == {"train": 2}


def test_an_empty_tfrecord_of_a_counted_set_is_a_part_without_records(tmp_path):
    records(tmp_path / "x-train.tfrecord-00000-of-00002", [1, 2])
    (tmp_path / "x-train.tfrecord-00001-of-00002").touch()
    source = find_source(tmp_path)

    assert len(source.listings()[0]) == 2
    assert any("no record: the file is empty" in note for note in source.notes())


def test_a_compressed_archive_beside_class_folders_is_noted_and_beside_tars_refused(tmp_path):
    make_images(tmp_path / "a", {"set/train/x": 1, "set/train/y": 1})
    (tmp_path / "a/set.tgz").write_bytes(b"\x1f\x8b and so on")
    wds(tmp_path / "b/train-0.tar", [1])
    shapes.gzipped(wds(tmp_path / "b/train-1.tar", [2]))

    assert splits_of(tmp_path / "a") == {"train": 2}
    assert "train-1.tar is compressed" in refusal(tmp_path / "b")


@given(st.text(max_size=30))
def test_no_name_breaks_the_rule_of_splits(name):
    try:
        split = split_in(name, "x")
    except DataError:
        split = None

    assert split in (None, *WORDS.values())
    assert exact_split(name) in (None, split)
    assert is_junk(f".{name}") or name in ("", ".")


# Labels


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


@pytest.mark.parametrize("text", ["-1", "-1.0", ""], ids=repr)
def test_the_sentinel_in_a_cls_file_is_no_class(tmp_path, text):
    shapes.tar([*sample(1, 0), *sample(2, text)], tmp_path / "train.tar")
    source = find_source(tmp_path)

    assert source.classes == ["0"]
    assert any("1 images without a label" in note for note in source.notes())


def test_null_in_a_json_is_no_label_and_texts_are_classes(tmp_path):
    shapes.tar([("a.jpg", b"x"), ("a.json", b'{"label": null}'), ("b.jpg", b"x"), ("b.json", b'{"label": "cat"}')], tmp_path / "train.tar")

    assert find_source(tmp_path).classes == ["cat"]


def test_a_sample_that_tells_two_labels_is_refused(tmp_path):
    shapes.tar([("a.jpg", b"x"), ("a.json", b'{"label": 3}'), ("a.cls", b"5")], tmp_path / "train.tar")

    assert "several labels (json label: 3, cls: 5)" in refusal(tmp_path)


def test_numbers_among_texts_are_texts_with_a_note(tmp_path):
    shapes.tar([*sample(1, 7), *sample(2, "A"), *sample(3, 10)], tmp_path / "train.tar")
    source = find_source(tmp_path)

    assert source.classes == ["10", "7", "A"]
    assert any("2 labels are numbers, the others texts (A): all are taken as texts" in note for note in source.notes())


def test_a_json_with_something_else_does_not_spoil_a_label(tmp_path):
    facts = {"target": 0.5, "label": [1, 2], "wnid": "10", "filename": "x.jpg"}
    shapes.tar([*sample(1, 5), ("001.json", json.dumps(facts).encode()), ("001.png", b"another")], tmp_path / "train.tar")
    source = find_source(tmp_path)

    assert listed(source) == {"train": [("train/10/x.jpg", "10")]}
    assert any("1 further images of samples" in note for note in source.notes())


def test_integers_are_the_labels_and_texts_beside_them_descriptions(tmp_path):
    table(tmp_path / "train.parquet", range(3), label=["a tench", "a/goldfish", "x"], fine_label=[0, 1, 2])
    table(tmp_path / "b/train.parquet", range(3), label=[0.5, 0.1, 0.2], target=[0, 1, 2])
    table(tmp_path / "c/train.parquet", range(3), label=pa.nulls(3), cls=[0, 1, 2])

    for where in (tmp_path / "train.parquet", tmp_path / "b", tmp_path / "c"):
        assert find_source(where).classes == ["0", "1", "2"]


def test_a_column_of_paths_is_not_one_of_images(tmp_path):
    columns = {"image": ["a/0.jpg", "a/1.jpg"], "bytes": [jpeg(picture(0)), jpeg(picture(1))], "label": [0, 1]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")

    assert sorted(every_image(find_source(tmp_path)).values()) == sorted(columns["bytes"])


def test_a_list_with_a_byte_that_is_missing_is_one_unusable_image(tmp_path):
    image = pa.array([list(jpeg(picture(0))), [255, None]], pa.list_(pa.uint8()))
    pq.write_table(pa.table({"image": image, "label": [0, 0]}), tmp_path / "train.parquet")
    manifest = make_shards(tmp_path / "train.parquet", tmp_path / "out", size=16, max_bad=0.5)

    assert (manifest.splits["train"].records, manifest.splits["train"].quarantined) == (1, 1)


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


def hugging_face(path, features, **columns):
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}} | features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [jpeg(picture(n)) for n in range(3)]} | columns).replace_schema_metadata(metadata), path)


def names(*values):
    return {"names": list(values), "_type": "ClassLabel"}


def test_class_names_are_those_of_the_labels_own_column(tmp_path):
    hugging_face(tmp_path / "train.parquet", {"coarse": names("X", "Y", "Z"), "label": names("cat", "dog", "emu")}, coarse=[2, 1, 0], label=[0, 1, 2])
    hugging_face(tmp_path / "other/train.parquet", {"coarse": names("X", "Y", "Z")}, coarse=[2, 1, 0], label=[0, 1, 2])

    assert find_source(tmp_path / "train.parquet").classes == ["cat", "dog", "emu"]
    assert find_source(tmp_path / "other").classes == ["0", "1", "2"]


def test_a_class_of_the_files_list_keeps_its_label_without_an_image_and_the_sources_order_can_be_had(tmp_path):
    hugging_face(tmp_path / "train.parquet", {"label": names("dog", "cat", "emu", "bee")}, label=[0, 2, 2])
    source, theirs = find_source(tmp_path), find_source(tmp_path, "source")

    assert source.classes == ["bee", "cat", "dog", "emu"]
    assert any("another order" in note and "--label-order source" in note for note in source.notes())
    assert theirs.classes == ["dog", "cat", "emu", "bee"]
    assert theirs.listings()[0].labels.tolist() == [0, 2, 2]


def test_a_label_beyond_the_files_class_names_is_refused(tmp_path):
    hugging_face(tmp_path / "train.parquet", {"label": names("a", "b", "c")}, label=[1, 2, 3])

    assert "has the label 3, but the files name 3 classes" in refusal(tmp_path)
    assert find_source(tmp_path, first_label=1).classes == ["a", "b", "c"]


def test_files_that_name_their_classes_differently_are_refused(tmp_path):
    hugging_face(tmp_path / "train-0.parquet", {"label": names("a", "b", "c")}, label=[0, 1, 2])
    hugging_face(tmp_path / "train-1.parquet", {"label": names("b", "a", "c")}, label=[0, 1, 2])

    assert "name their classes differently" in refusal(tmp_path)


def test_an_order_of_the_source_needs_numbers(tmp_path):
    make_images(tmp_path, {"a": 1, "b": 1})

    assert "does not give each class a number of its own" in refusal(tmp_path, label_order="source")


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


# Damaged parts


def damaged_class_tar(kind, good):
    cut = {"zeros": bytes(len(good)), "empty": b"", "bad header": b"x" * 512 + good[512:], "cut": good[: len(good) // 2], "one byte": good[:1]}
    if kind == "gzip":
        return shapes.gzip.compress(good)
    return cut[kind]


@pytest.mark.parametrize("kind", ["zeros", "empty", "bad header", "cut", "one byte", "gzip"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_damaged_class_tar_stops_the_job_by_its_name(imagenet, tmp_path, kind, which):
    inner = []
    for number, (wnid, files) in enumerate(imagenet["train"].items()):
        shapes.tar(files.items(), tmp_path / "class.tar")
        good = (tmp_path / "class.tar").read_bytes()
        inner.append((f"{wnid}.tar", damaged_class_tar(kind, good) if number == which else good))
    (tmp_path / "src").mkdir()
    shapes.tar(inner, tmp_path / "src/ILSVRC2012_img_train.tar")

    assert f"{inner[which][0]}" in refusal(tmp_path / "src")


@pytest.mark.parametrize("name", ["train-1.tar", "train-1.parquet", "train-1.tfrecord", "train-00001-of-00002"])
@pytest.mark.parametrize(
    "content", [b" ", bytes(10240), b"<html>not found</html>", b"\x00\x01damaged" * 100], ids=["a blank", "zeros", "html", "garbage"]
)
def test_a_file_that_claims_to_be_a_part_and_is_none_stops_the_job(tmp_path, name, content):
    write, ending = next((write, ending) for write, ending in FILES.values() if ending in name or (ending == "tfrecord" and "-of-" in name))
    write(tmp_path / f"train-0.{ending}", [1, 2])
    (tmp_path / name).write_bytes(content)

    assert f"{name} is no" in refusal(tmp_path)


def test_an_unfinished_download_is_named(tmp_path):
    wds(tmp_path / "train-0.tar", [1])
    (tmp_path / "train-1.tar.crdownload").write_bytes(b"...")

    assert "train-1.tar.crdownload is an unfinished download" in refusal(tmp_path)


def test_a_tar_that_has_a_sample_twice_is_refused(tmp_path):
    shapes.tar([*sample(1), *sample(1)], tmp_path / "train.tar")

    assert "has the member 001.jpg twice" in refusal(tmp_path)


def test_what_was_noted_before_a_refusal_is_told_with_it(tmp_path):
    table(tmp_path / "train.parquet", range(3), label=[-1, -1, -1])
    said = refusal(tmp_path)

    assert "no images under" in said
    assert "3 images without a label" in said


# Spellings of Arrow


def spelt(kind, images, names, labels):
    """A table of the same images in another spelling."""
    kinds = {
        "plain": (pa.binary(), pa.string(), pa.int64()),
        "large": (pa.large_binary(), pa.large_string(), pa.uint8()),
        "view": (pa.binary_view(), pa.string_view(), pa.int16()),
        "names as bytes": (pa.binary(), pa.binary(), pa.int64()),
        "dictionary": (pa.dictionary(pa.int32(), pa.binary()), pa.dictionary(pa.int32(), pa.large_string()), pa.dictionary(pa.int8(), pa.int64())),
        "lists of uint8": (pa.list_(pa.uint8()), pa.string(), pa.int64()),
        "struct": (pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]), None, pa.int64()),
        "struct of views": (pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]), None, pa.int64()),
        "struct and a name beside": (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.string(), pa.int64()),
    }
    image, name, label = kinds[kind]
    if pa.types.is_list(image):
        images = [list(data) for data in images]
    if pa.types.is_struct(image):
        images = [{"bytes": data, "path": None if name else text} for data, text in zip(images, names, strict=True)]
    columns = {"image": pa.array(images, image), "label": pa.array(labels, label)}
    return pa.table(
        columns if name is None else columns | {"filename": pa.array([n.encode() for n in names] if name == pa.binary() else names, name)}
    )


KINDS = ("plain", "large", "view", "names as bytes", "dictionary", "lists of uint8", "struct", "struct of views", "struct and a name beside")


def small_set():
    ids = ["n01440764", "n01443537"]
    numbers = list(range(8))
    return [jpeg(picture(n)) for n in numbers], [f"{ids[n % 2]}_{n}.JPEG" for n in numbers], [n % 2 for n in numbers]


def shards_of(source, out):
    make_shards(source, out, size=16)
    return (out / "train-00000-of-00001.arrow").read_bytes()


@pytest.fixture(scope="module")
def plain_shard(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    (root / "src").mkdir()
    pq.write_table(spelt("plain", *small_set()), root / "src/train.parquet")
    return shards_of(root / "src", root / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_every_spelling_of_arrow_gives_the_same_shard(plain_shard, tmp_path, kind):
    (tmp_path / "src").mkdir()
    groups = {} if kind == "struct of views" else {"row_group_size": 3}  # pyarrow 26 cannot write a part of one
    pq.write_table(spelt(kind, *small_set()), tmp_path / "src/train.parquet", **groups)

    assert shards_of(tmp_path / "src", tmp_path / "out") == plain_shard


@pytest.mark.parametrize("writer", ["pandas", "pandas categorical", "polars", "polars categorical", "duckdb", "pyarrow datasets"])
def test_the_files_of_every_writer_give_the_same_shard(plain_shard, tmp_path, writer):
    images, file_names, labels = small_set()
    (tmp_path / "src").mkdir()
    path = tmp_path / "src/train.parquet"
    columns = {"image": images, "filename": file_names, "label": labels}
    if writer.startswith("pandas"):
        import pandas as pd

        frame = pd.DataFrame(columns)
        if "categorical" in writer:
            frame = frame.astype({"filename": "category", "label": "category"})
        frame.to_parquet(path)
    elif writer.startswith("polars"):
        import polars as pl

        frame = pl.DataFrame(columns)
        (frame.with_columns(pl.col("filename").cast(pl.Categorical)) if "categorical" in writer else frame).write_parquet(path, row_group_size=5)
    elif writer == "duckdb":
        import duckdb

        rows = pa.table(columns)  # noqa: F841  (duckdb finds it by its name)
        duckdb.sql("SELECT image, filename, CAST(label AS UTINYINT) AS label FROM rows").write_parquet(str(path))
    else:
        import pyarrow.dataset

        pyarrow.dataset.write_dataset(pa.table(columns), tmp_path / "src", format="parquet", basename_template="train-{i}.parquet")

    assert shards_of(tmp_path / "src", tmp_path / "out") == plain_shard


def test_runs_are_read_as_what_they_stand_for():
    from alexprep.pipeline.sources.formats.parquet import _is_text, _label_column, _stored, _texts

    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["a", "b"], pa.large_string()))

    assert _texts(pa.table({"label": runs}), "label") == ["a", "a", "b"]
    assert _is_text(_stored(runs.type))
    assert _label_column({"label": _stored(runs.type)}) == "label"


def test_images_without_names_have_keys_that_do_not_follow_the_row_groups(tmp_path):
    for size in (2, 5):
        (tmp_path / str(size)).mkdir()
        pq.write_table(
            pa.table({"image": [jpeg(picture(n)) for n in range(5)], "label": [0] * 5}), tmp_path / f"{size}/train.parquet", row_group_size=size
        )

    assert listed(find_source(tmp_path / "2")) == listed(find_source(tmp_path / "5"))


# Names


def test_files_of_operating_systems_are_passed_over_in_every_shape(tmp_path):
    make_images(tmp_path / "folder", {"train/a": 1, "train/b": 1, "train/@eaDir/a": 1, "__MACOSX/train/a": 1, "lost+found": 1, "train/a/.cache": 1})
    (tmp_path / "folder/train/a/Thumbs.db").write_bytes(b"x")
    junk = [("._001.jpg", b"x"), ("__MACOSX/001.jpg", b"x"), ("a/.DS_Store", b"x"), ("@eaDir/001.jpg", b"x"), ("Thumbs.db", b"x")]
    (tmp_path / "w").mkdir()
    shapes.tar([*itertools.chain(*zip(junk[:2], sample(1), strict=True)), *junk[2:]], tmp_path / "w/train-0.tar")
    (tmp_path / "w/._train-0.tar").write_bytes(b"Mac OS X")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("._n01440764_1.JPEG", b"x"), ("n01440764_1.JPEG", jpeg(picture(1)))):
            shapes.add(archive, name, data)
    (tmp_path / "t").mkdir()
    shapes.tar([("._n01440764.tar", b"x"), (".DS_Store", b"x"), ("n01440764.tar", buffer.getvalue()), ("README.txt", b"x")], tmp_path / "t/train.tar")
    table(tmp_path / "p/train.parquet", range(2), filename=["a/._0.jpg", "a/1.jpg"])
    records(tmp_path / "r/train.tfrecord", [1], file_name=b"._1.jpg")
    records(tmp_path / "r/train-1.tfrecord", [2])

    assert {key for key, _ in listed(find_source(tmp_path / "folder"))["train"]} == {"train/a/000.JPEG", "train/b/000.JPEG"}
    assert [len(find_source(tmp_path / shape).listings()[0]) for shape in "wtpr"] == [1, 1, 1, 1]
    assert any("README.txt is no class tar" in note for note in find_source(tmp_path / "t").notes())


def test_keys_that_would_clash_keep_the_folder_or_the_file_they_lie_in(tmp_path):
    folders = [(f"d{d}/{name}", data) for d in (0, 1) for name, data in sample(d)]
    renamed = [(name.replace("001", "000"), data) for name, data in folders]
    (tmp_path / "w").mkdir()
    shapes.tar(renamed, tmp_path / "w/train.tar")
    for name in ("a-train.tar", "b-train.tar"):
        wds(tmp_path / "two" / name, [1, ord(name[0])])
    table(tmp_path / "p/train.parquet", range(4), filename=["d0/x.jpg", "d1/x.jpg", "x.jpg", "y.jpg"], label=[0] * 4)
    table(tmp_path / "n/train.parquet", range(3), filename=["image.jpg"] * 3, label=[0] * 3)

    assert keys(tmp_path / "w") == ["train/0/d0/000.jpg", "train/0/d1/000.jpg"]
    assert keys(tmp_path / "two") == ["train/0/097.jpg", "train/0/098.jpg", "train/0/a-train/001.jpg", "train/0/b-train/001.jpg"]
    assert keys(tmp_path / "p") == ["train/0/d0/x.jpg", "train/0/d1/x.jpg", "train/0/x.jpg", "train/0/y.jpg"]
    assert any("2 images of train have names that occur twice" in note for note in find_source(tmp_path / "two").notes())
    assert keys(tmp_path / "n") == [f"train/0/train/0000000{n}/image.jpg" for n in (1, 2, 3)]


def keys(where):
    return [key for key, _ in listed(find_source(where))["train"]]


def test_a_key_never_leads_out_of_its_folder(tmp_path):
    shapes.tar(
        [(f"{up}x.{ending}", data) for up in ("../a/", "/../../", "b/../") for ending, data in (("jpg", b"x"), ("cls", b"0"))], tmp_path / "train.tar"
    )
    table(tmp_path / "p/train.parquet", range(2), filename=["../../x.jpg", "/etc/x.jpg"], label=[0, 0])

    for where in (tmp_path / "train.tar", tmp_path / "p"):
        assert not [key for key in keys(where) if ".." in key.split("/") or "" in key.split("/")]


def test_shards_of_one_name_in_two_folders_tell_their_images_apart(tmp_path):
    for place in ("train/p0/0000.tar", "train/p1/0000.tar"):
        wds(tmp_path / "a" / place, [1])
    for name in ("imagenet.train-0000.tar", "imagenet.train-0001.tar"):
        wds(tmp_path / "b" / name, [1])

    assert keys(tmp_path / "a") == ["train/0/p0/0000/001.jpg", "train/0/p1/0000/001.jpg"]
    assert keys(tmp_path / "b") == ["train/0/imagenet.train-0000/001.jpg", "train/0/imagenet.train-0001/001.jpg"]


def test_a_class_that_two_tars_have_is_refused(imagenet, tmp_path):
    shapes.tars(imagenet, tmp_path)
    (tmp_path / "ILSVRC2012_img_train_t3.tar").write_bytes((tmp_path / "ILSVRC2012_img_train.tar").read_bytes())

    assert "two images called train/n01440764/n01440764_0.JPEG" in refusal(tmp_path)


# What public data sets look like, and what happens to them on their way


def class_tars(path, splits, prefix="", ending=".tar"):
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = []
    for wnid, files in splits["train"].items():
        shapes.tar(files.items(), path.with_name("class.tmp"))
        inner.append((f"{prefix}{wnid}{ending}", path.with_name("class.tmp").read_bytes()))
    path.with_name("class.tmp").unlink()
    return shapes.tar(inner, path)


def test_a_header_of_zeros_inside_of_an_archive_does_not_end_it(imagenet, tmp_path):
    outer = class_tars(tmp_path / "a/train.tar", imagenet)
    samples = wds(tmp_path / "b/train.tar", range(4))
    for path, name in ((outer, "n01443537.tar"), (samples, "002.jpg")):
        with tarfile.open(path) as archive:
            at = archive.getmember(name).offset
        data = bytearray(path.read_bytes())
        data[at : at + 512] = bytes(512)
        path.write_bytes(data)

        assert f"has data after the end marker at byte {at}" in refusal(path)
    (tmp_path / "c.tar").write_bytes(wds(tmp_path / "x.tar", [1]).read_bytes() * 2)
    assert "has data after the end marker" in refusal(tmp_path / "c.tar")


def test_splits_inside_of_a_tar_of_tars_are_refused(imagenet, tmp_path):
    both = [(f"imagenet/{split}/n01440764.tar", wds(tmp_path / "x", [1]).read_bytes()) for split in ("train", "val")]
    shapes.tar(both, tmp_path / "a.tar")
    class_tars(tmp_path / "v/imagenet.tar", imagenet, "imagenet/val/")
    class_tars(tmp_path / "t/train.tar", imagenet, "train/")
    class_tars(tmp_path / "d/train.tar", imagenet, "val/")
    shapes.tar(
        [(f"{name}.tar", wds(tmp_path / "x", [1]).read_bytes()) for name in ("ILSVRC2012_img_train", "ILSVRC2012_img_val")], tmp_path / "b.tar"
    )
    shapes.tar([("train/1.JPEG", b"x"), ("val/2.JPEG", b"x")], tmp_path / "inner")
    shapes.tar([("n01440764.tar", (tmp_path / "inner").read_bytes())], tmp_path / "c.tar")

    assert splits_of(tmp_path / "v/imagenet.tar") == {"val": 24}
    assert splits_of(tmp_path / "t/train.tar") == {"train": 24}
    assert "belongs to the split train by its name, but to val by the folders in it" in refusal(tmp_path / "d/train.tar")
    for name in "ab":
        assert "so it contains splits" in refusal(tmp_path / f"{name}.tar")
    assert "as if classes contained splits" in refusal(tmp_path / "c.tar")


def test_a_link_in_the_place_of_a_class_tar_is_refused(imagenet, tmp_path):
    outer = class_tars(tmp_path / "train.tar", imagenet)
    with tarfile.open(outer, "a") as archive:
        shapes.add(archive, "n09999999.tar", b"", type=tarfile.SYMTYPE, linkname="n01440764.tar")

    assert "a class tar may be a link: 1 links, devices and the like in the tars are not read (n09999999.tar)" in refusal(outer)


def test_class_tars_may_be_called_in_upper_case(imagenet, tmp_path):
    assert find_source(class_tars(tmp_path / "train.TAR", imagenet, ending=".TAR")).classes == sorted(imagenet["train"])


def test_a_tar_of_class_folders_is_not_taken_for_the_validation_tar(tmp_path):
    files = [(f"imagenette2/train/n01440764/ILSVRC2012_val_{n:08}.JPEG", b"x") for n in range(1, 20)]
    shapes.tar([*files, ("imagenette2/train/n01440764/n01440764_1.JPEG", b"x")], tmp_path / "imagenette2.tar")

    assert "if its folders are classes, unpack the archive" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("tree", "empty", "said"),
    [
        ({"train2017": 2, "val2017": 2}, ["annotations"], "train2017 has 2 files and no class folders"),
        ({"cars_train": 2, "cars_test": 2}, ["devkit"], "no class folders: their labels are unknown"),
        ({"train": 2, "test": 2, "train_masks": 2}, [], "has train_masks/ with images beside test/, train/"),
        ({"train/images": 2, "train/labels": 2, "valid/images": 1}, [], "images, beside labels, and no class folders"),
        ({"JPEGImages": 2, "SegmentationClass": 2, "SegmentationObject": 2}, [], "JPEGImages has images, beside"),
        ({"amazon/images/mug": 1, "amazon/images/pen": 1, "dslr/images/mug": 1, "dslr/images/pen": 1}, [], "the images lie deeper in them"),
        ({"a/abbey": 1, "a/airport": 1, "b/beach": 1}, [], "the images lie deeper in them (abbey, airport, beach)"),
        ({"val/tmp/x": 1, "train/n01440764": 1}, [], None),
    ],
)
def test_what_the_folders_of_public_data_sets_mean_is_not_guessed(tmp_path, tree, empty, said):
    make_images(tmp_path, tree)
    for name in empty:
        (tmp_path / name).mkdir()

    if said is None:
        assert "the val split has classes that train does not have" in refusal(tmp_path)
    else:
        assert said in refusal(tmp_path)


def test_flat_validation_files_stay_so_beside_an_idle_folder(imagenet, tmp_path):
    shapes.flat_folder(imagenet, tmp_path)
    (tmp_path / "val/tmp").mkdir()
    source = find_source(tmp_path)

    assert len(source.listings()[1]) == 6
    assert any("1 folders beside the files are not read (tmp)" in note for note in source.notes())
    (tmp_path / "val/tmp/x.JPEG").write_bytes(jpeg(picture(1)))
    assert "beside each other: keep one of them" in refusal(tmp_path)


def test_a_folder_of_texts_is_no_class_and_named(tmp_path):
    make_images(tmp_path, {"train/cat": 1, "train/owl": 1})
    (tmp_path / "train/docs").mkdir()
    (tmp_path / "train/docs/readme.txt").write_text("x")
    source = find_source(tmp_path)

    assert source.classes == ["cat", "owl"]
    assert any("train/docs has files, but none that may be an image: it is not a class" in note for note in source.notes())


def test_links_to_nowhere_that_may_have_been_a_part_are_refused(tmp_path):
    make_images(tmp_path / "a", {"train/cat": 1, "train/owl": 1})
    (tmp_path / "a/train/dog").symlink_to("/nowhere/dog")
    make_images(tmp_path / "b", {"train/cat": 1, "train/owl": 1})
    (tmp_path / "b/val").symlink_to("/nowhere/val")
    wds(tmp_path / "c/train-0.tar", [1])
    (tmp_path / "c/train-1.tar").symlink_to("/nowhere/train-1.tar")

    for where, name in (("a", "train/dog"), ("b", "val"), ("c", "train-1.tar")):
        assert f"{name} is a broken symbolic link" in refusal(tmp_path / where)


def test_missing_parts_of_a_counted_set_are_named(tmp_path):
    for number in (0, 2):
        table(tmp_path / f"train-{number:05}-of-00004.parquet", [number, number + 9])

    assert any("2 of 4 parts are missing (00001, 00003)" in note for note in find_source(tmp_path).notes())


def test_a_split_that_rows_tell_is_not_ignored(tmp_path):
    table(tmp_path / "a.parquet", range(4), split=["train", "train", "test", "test"])
    table(tmp_path / "b.parquet", range(2), filename=["train/0.jpg", "val/1.jpg"])
    table(tmp_path / "c.parquet", range(2), split=["train", "train"])

    assert "its column split says 'test'" in refusal(tmp_path / "a.parquet")
    assert "has images in val/" in refusal(tmp_path / "b.parquet")
    assert splits_of(tmp_path / "c.parquet") == {"train": 2}


def test_lists_of_splits_beside_class_folders_are_named(tmp_path):
    make_images(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "test.txt").write_text("cat/000.JPEG\n")

    assert any("files that may say which images are of which split are not read (test.txt)" in note for note in find_source(tmp_path).notes())


def test_the_plain_image_of_a_sample_is_read_and_others_are_named(tmp_path):
    shapes.tar([("a.cls", b"0"), ("a.depth.png", b"depth"), ("a.jpg", jpeg(picture(1)))], tmp_path / "train.tar")
    shapes.tar([("b.cls", b"0"), ("b.left.jpg", b"left"), ("b.right.jpg", b"right")], tmp_path / "other.tar")

    assert every_image(find_source(tmp_path / "train.tar")) == {b"train/0/a.jpg": jpeg(picture(1))}
    assert any("1 further images of samples in the tars are not read (b.right.jpg)" in note for note in find_source(tmp_path / "other.tar").notes())


@pytest.mark.parametrize("name", ["license_plates-train-0.tar", "readme_images-train-0.tar", "devkit_train.tar"])
def test_no_tar_is_left_out_for_the_words_in_its_name(tmp_path, name):
    wds(tmp_path / name, [1, 2])

    assert splits_of(tmp_path) == {"train": 2}


def test_archives_of_boxes_beside_the_official_tars_are_no_reason_to_stop(imagenet, tmp_path):
    shapes.tars(imagenet, tmp_path)
    (tmp_path / "ILSVRC2012_bbox_train_v2.tar.gz").write_bytes(b"\x1f\x8b boxes")

    assert splits_of(tmp_path) == {"train": 24, "val": 6}


def test_what_spark_and_dask_lay_beside_parquet_is_passed_over(tmp_path):
    table(tmp_path / "train-0.parquet", [0, 1])
    for name in ("_metadata", "_common_metadata", "_SUCCESS"):
        (tmp_path / name).write_bytes(b"PAR1 and no table")

    assert splits_of(tmp_path) == {"train": 2}


def test_an_image_with_several_labels_is_refused(tmp_path):
    packed = shapes.message(1, shapes.message(1, shapes.message(1, b"label") + shapes.message(2, shapes.message(3, shapes.message(1, b"\x00\x01")))))
    shapes.tfrecord([packed + shapes.example({"image": b"x"})], tmp_path / "train.tfrecord")

    assert "an image has one label, but this one has several" in refusal(tmp_path)


def test_images_in_one_folder_of_each_class_are_the_classs(tmp_path):
    """Tiny ImageNet has train/n01440764/images/."""
    make_images(tmp_path, {"n01440764/images": 2, "n01443537/images": 1})

    assert find_source(tmp_path).classes == ["n01440764", "n01443537"]


@pytest.mark.parametrize("beside", ["tmp", "AREADME.txt", "ILSVRC2012_bbox_val_v3.tgz"])
def test_flat_validation_files_alone_are_the_validation_split_whatever_lies_beside(imagenet, tmp_path, beside):
    shapes.flat_folder({"val": imagenet["val"]}, tmp_path)
    (tmp_path / "val").rename(tmp_path / "imagenet")
    (tmp_path / "imagenet" / beside).mkdir() if "." not in beside else (tmp_path / "imagenet" / beside).write_bytes(b"\x1f\x8b x")

    assert splits_of(tmp_path / "imagenet") == {"val": 6}


@pytest.mark.parametrize("name", ["0", "photo", "images", "unknown"])
def test_a_test_split_of_one_folder_is_read_if_that_is_a_class(tmp_path, name):
    make_images(tmp_path, {f"train/{'photo' if name == 'photo' else 0}": 1, "train/sketch": 1, f"test/{name}": 2})

    if name in ("0", "photo"):
        assert splits_of(tmp_path) == {"train": 2, "test": 2}
    elif name == "images":
        assert any("without labels: not read" in note for note in find_source(tmp_path).notes())
    else:
        assert "the test split has classes that train does not have: unknown" in refusal(tmp_path)


def test_tars_of_two_shapes_in_one_split_are_read_as_both(imagenet, tmp_path):
    shapes.tars(imagenet, tmp_path)
    wds(tmp_path / "train-000.tar", [1], "n01440764")

    assert splits_of(tmp_path)["train"] == 25


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


def test_folders_around_all_images_of_a_file_say_nothing(tmp_path):
    table(tmp_path / "train.parquet", range(2), filename=["/home/dev/img/0.jpg", "/home/dev/more/1.jpg"])

    assert splits_of(tmp_path) == {"train": 2}


def test_a_damaged_devkit_is_named(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path, devkit=True)
    path = root / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(path.read_bytes()[:2000])

    assert "ILSVRC2012_devkit_t12.tar.gz cannot be read as an archive" in refusal(root)


def test_a_class_tar_that_lies_alone_is_explained(imagenet, tmp_path):
    shapes.tar(imagenet["train"]["n01440764"].items(), tmp_path / "n01440764.tar")

    assert "unpack a single class tar into a folder named after its class" in refusal(tmp_path)


def test_links_in_circles_above_the_classes_end_in_a_message(tmp_path):
    make_images(tmp_path, {"val/a": 1})
    (tmp_path / "train").mkdir()
    (tmp_path / "train/loop").symlink_to("../train")

    assert "or a link in a circle" in refusal(tmp_path)
