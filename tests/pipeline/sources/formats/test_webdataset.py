"""WebDataset: samples in tars, whatever else is in them."""

import json
import os
import tarfile

import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.sources import find_source

from ....support import shapes
from ....support.images import jpeg, picture
from ....support.shards import make_shards
from ....support.sources import every_image, listed, refusal, sample, splits_of, wds


def hostile_tar(path, *extra):
    """A WebDataset tar with one good sample, and members given as (name, bytes, attributes)."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        shapes.add(archive, "good.jpg", jpeg(picture(0)))
        shapes.add(archive, "good.cls", b"1")
        for name, data, facts in extra:
            shapes.add(archive, name, data, **facts)
    return path


def test_members_that_point_elsewhere_lead_nowhere(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(jpeg(picture(9)))
    link = {"type": tarfile.SYMTYPE, "linkname": str(secret)}
    hostile_tar(
        tmp_path / "x-train.tar",
        ("link.jpg", b"", link),
        ("hard.jpg", b"", {**link, "type": tarfile.LNKTYPE}),
        ("../../up.jpg", jpeg(picture(1)), {}),
        ("../../up.cls", b"0", {}),
        ("/etc/absolute.jpg", jpeg(picture(2)), {}),
        ("/etc/absolute.cls", b"0", {}),
        ("device.jpg", b"", {"type": tarfile.CHRTYPE}),
    )
    source = find_source(tmp_path / "x-train.tar")

    assert [key for key, _ in listed(source)["train"]] == ["train/0/absolute.jpg", "train/0/up.jpg", "train/1/good.jpg"]
    assert every_image(source)[b"train/0/up.jpg"] == jpeg(picture(1))
    assert any("3 links, devices and the like in the tars are not read" in note for note in source.notes())


def test_names_that_are_not_utf8_are_quarantined_and_the_rest_becomes_records(tmp_path):
    name = os.fsdecode(b"\xff\xfe")
    with tarfile.open(tmp_path / "train.tar", "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for stem, number in (("good", 0), (name, 1)):
            shapes.add(archive, f"{stem}.jpg", jpeg(picture(number)))
            shapes.add(archive, f"{stem}.cls", b"0")
    manifest = make_shards(tmp_path / "train.tar", tmp_path / "out", size=16, max_bad=0.5)

    assert (manifest.splits["train"].records, manifest.splits["train"].quarantined) == (1, 1)
    assert json.loads((tmp_path / "out/quarantine.jsonl").read_text())["key"] == "train/0/\\xff\\xfe.jpg"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([("lonely.cls", b"1", {})], "the sample lonely has no image"),
        ([("x.jpg", b"..", {})], "the sample x has no label"),
        ([("x.jpg", b"..", {}), ("x.cls", b"9" * 2000, {})], "a label has at most"),
        ([("x.jpg", b"..", {}), ("x.json", b"{", {})], "x.json is no label"),
        ([("x.jpg", b"..", {}), ("x.json", b"[" * 100_000, {})], "x.json is no label"),
        ([("x.jpg", b"..", {"pax_headers": {"path": "y" * 2_000_000}})], "a header of 2"),
    ],
)
def test_odd_samples_are_explained(tmp_path, extra, message):
    with pytest.raises(DataError, match=message):
        find_source(hostile_tar(tmp_path / "train.tar", *extra))


def test_a_json_label_may_be_a_class_id(tmp_path):
    files = [("a.jpg", jpeg(picture(0))), ("a.json", b'{"wnid": "n01440764", "filename": "n01440764_5.JPEG"}')]
    source = find_source(shapes.tar(files, tmp_path / "train.tar"))

    assert listed(source) == {"train": [("train/n01440764/n01440764_5.JPEG", "n01440764")]}


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


def test_a_tar_that_has_a_sample_twice_is_refused(tmp_path):
    shapes.tar([*sample(1), *sample(1)], tmp_path / "train.tar")

    assert "has the member 001.jpg twice" in refusal(tmp_path)


def test_the_plain_image_of_a_sample_is_read_and_others_are_named(tmp_path):
    shapes.tar([("a.cls", b"0"), ("a.depth.png", b"depth"), ("a.jpg", jpeg(picture(1)))], tmp_path / "train.tar")
    shapes.tar([("b.cls", b"0"), ("b.left.jpg", b"left"), ("b.right.jpg", b"right")], tmp_path / "other.tar")

    assert every_image(find_source(tmp_path / "train.tar")) == {b"train/0/a.jpg": jpeg(picture(1))}
    assert any("1 further images of samples in the tars are not read (b.right.jpg)" in note for note in find_source(tmp_path / "other.tar").notes())


@pytest.mark.parametrize("name", ["license_plates-train-0.tar", "readme_images-train-0.tar", "devkit_train.tar"])
def test_no_tar_is_left_out_for_the_words_in_its_name(tmp_path, name):
    wds(tmp_path / name, [1, 2])

    assert splits_of(tmp_path) == {"train": 2}
