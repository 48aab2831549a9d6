"""TFRecord: checksums, lengths, and labels that count from 0 or 1."""

import struct

import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.sources import find_source
from hypothesis import given, settings
from hypothesis import strategies as st

from ....support import shapes
from ....support.shards import make_shards
from ....support.sources import records, refusal


def test_labels_that_contradict_the_images_names_are_refused(imagenet, tmp_path):
    root = shapes.tfds(imagenet, tmp_path / "src")
    shapes.tfrecord([shapes.example({"file_name": b"n01440764_9.JPEG", "image": b"", "label": 2})], root / "imagenet2012-train.tfrecord-00009")

    with pytest.raises(DataError, match="the label 2 is n01484850 in one image and n01440764 in n01440764_9.JPEG"):
        find_source(root)


def test_a_record_of_another_label_order_is_noted(imagenet, tmp_path):
    examples = [
        shapes.example({"file_name": name, "image": b"x", "label": label}) for name, label in ((b"n00000002_1.JPEG", 0), (b"n00000001_1.JPEG", 1))
    ]
    shapes.tfrecord(examples, tmp_path / "x-train.tfrecord-00000-of-00001")
    source = find_source(tmp_path)

    assert source.classes == ["n00000001", "n00000002"]
    assert any("in another order" in note for note in source.notes())


def test_compressed_archives_are_refused_before_a_byte_is_unpacked(tmp_path, imagenet):
    shapes.gzipped(shapes.tfrecord([shapes.example({"image": b"", "label": 0})], tmp_path / "train-00000-of-00001"))

    with pytest.raises(DataError, match="compressed"):
        find_source(tmp_path)


def test_a_damaged_record_of_a_tfrecord_is_quarantined(imagenet, tmp_path):
    root = shapes.tfds(imagenet, tmp_path / "src")
    path = root / "imagenet2012-train.tfrecord-00000-of-00002"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # inside an image
    path.write_bytes(data)
    manifest = make_shards(root, tmp_path / "out", size=16, max_bad=0.5)

    assert manifest.splits["train"].quarantined == 1
    assert "checksum is wrong" in (tmp_path / "out/quarantine.jsonl").read_text()


def test_a_length_that_lies_is_found_by_its_checksum(tmp_path):
    path = shapes.tfrecord([shapes.example({"image": b"", "label": 0})] * 2, tmp_path / "train-00000-of-00001")
    data = bytearray(path.read_bytes())
    second = 16 + struct.unpack_from("<Q", data)[0]
    data[second] ^= 1
    path.write_bytes(data)

    with pytest.raises(DataError, match=f"damaged at byte {second}"):
        find_source(path)


@given(data=st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_the_protocol_buffer_reader(data):
    from alexprep.pipeline.sources.formats.tfrecord import parse_example

    try:
        parse_example(memoryview(data))
    except ValueError:
        return


def test_an_empty_tfrecord_of_a_counted_set_is_a_part_without_records(tmp_path):
    records(tmp_path / "x-train.tfrecord-00000-of-00002", [1, 2])
    (tmp_path / "x-train.tfrecord-00001-of-00002").touch()
    source = find_source(tmp_path)

    assert len(source.listings()[0]) == 2
    assert any("no record: the file is empty" in note for note in source.notes())


def test_an_image_with_several_labels_is_refused(tmp_path):
    packed = shapes.message(1, shapes.message(1, shapes.message(1, b"label") + shapes.message(2, shapes.message(3, shapes.message(1, b"\x00\x01")))))
    shapes.tfrecord([packed + shapes.example({"image": b"x"})], tmp_path / "train.tfrecord")

    assert "an image has one label, but this one has several" in refusal(tmp_path)
