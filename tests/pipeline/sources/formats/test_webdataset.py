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
from ....support.sources import every_image, listed


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
