"""Which folder, file or row is of which split; two answers, or half of one, are refused."""

import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.sources import find_source
from alexprep.pipeline.sources.splits import WORDS, exact_split, folder_splits, is_junk, split_in
from hypothesis import given
from hypothesis import strategies as st

from ...support.images import make_images
from ...support.sources import FILES, refusal, splits_of, table, wds


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


def test_files_of_which_only_some_name_a_split_are_refused(tmp_path):
    for name in ("train-0.tar", "val-0.tar", "more-0.tar"):
        wds(tmp_path / name, [hash(name) % 1000])

    assert "more-0.tar names no split" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["train-val-0.tar", "train/dev-0.tar"])
def test_a_path_with_two_splits_is_refused(tmp_path, name):
    wds(tmp_path / name, [1])

    assert "two splits" in refusal(tmp_path)


@given(st.text(max_size=30))
def test_no_name_breaks_the_rule_of_splits(name):
    try:
        split = split_in(name, "x")
    except DataError:
        split = None

    assert split in (None, *WORDS.values())
    assert exact_split(name) in (None, split)
    assert is_junk(f".{name}") or name in ("", ".")


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


@pytest.mark.parametrize("name", ["0", "photo", "images", "unknown"])
def test_a_test_split_of_one_folder_is_read_if_that_is_a_class(tmp_path, name):
    make_images(tmp_path, {f"train/{'photo' if name == 'photo' else 0}": 1, "train/sketch": 1, f"test/{name}": 2})

    if name in ("0", "photo"):
        assert splits_of(tmp_path) == {"train": 2, "test": 2}
    elif name == "images":
        assert any("without labels: not read" in note for note in find_source(tmp_path).notes())
    else:
        assert "the test split has classes that train does not have: unknown" in refusal(tmp_path)
