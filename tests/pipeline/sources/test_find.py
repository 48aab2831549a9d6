"""What each shape of ImageNet offers: the same images, recognised by content, read where they lie."""

import io
import json
import os
import re
import struct
import subprocess
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alexprep.pipeline.errors import DataError, UndecodableImage
from alexprep.pipeline.sources import Place, find_source
from alexprep.pipeline.sources.labels import ilsvrc2012
from hypothesis import given, settings
from hypothesis import strategies as st

from ...support import shapes
from ...support.commands import command
from ...support.images import jpeg, make_images, picture
from ...support.shards import make_shards

SHAPES = {
    "flat validation folder": shapes.flat_folder,
    "tars": shapes.tars,
    "tars and devkit": lambda splits, root: shapes.tars(splits, root, devkit=True),
    "Kaggle": shapes.kaggle,
    "parquet": shapes.parquet,
    "parquet of bytes": shapes.bytes_parquet,
    "WebDataset": shapes.webdataset,
    "TFDS": shapes.tfds,
    "slim": shapes.slim,
}


def listed(source):
    return {listing.split: [(os.fsdecode(key), source.classes[label]) for key, label, _ in listing.rows()] for listing in source.listings()}


def every_image(source):
    return {key: source.read(listing.split, place) for listing in source.listings() for key, _, place in listing.rows()}


@pytest.fixture(scope="module")
def imagenet():
    return shapes.imagenet()


@pytest.fixture(scope="module")
def folder_shards(imagenet, tmp_path_factory):
    root = tmp_path_factory.mktemp("folder")
    make_shards(shapes.folder(imagenet, root / "src"), root / "out", size=32)
    return root / "out"


def content(directory, name):
    """A file's bytes; of the manifest and the job, all but the source's name and fingerprint."""
    data = (directory / name).read_bytes()
    if name in ("manifest.json", "job.json"):
        value = json.loads(data)
        assert set(value.pop("source")) == {"shape", "fingerprint"}
        return value
    return data


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_shards_byte_for_byte(imagenet, folder_shards, tmp_path, shape):
    make_shards(SHAPES[shape](imagenet, tmp_path / "src"), tmp_path / "out", size=32)
    names = sorted(path.name for path in folder_shards.iterdir() if not path.name.startswith("."))

    assert names == sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))
    assert len([name for name in names if name.endswith(".arrow")]) == 2
    for name in names:
        assert content(tmp_path / "out", name) == content(folder_shards, name), name


@pytest.mark.parametrize("shape", SHAPES)
def test_every_image_of_every_shape_is_read_as_it_is(imagenet, tmp_path, shape):
    source = find_source(SHAPES[shape](imagenet, tmp_path / "src"))

    assert every_image(source) == {f"{split}/{wnid}/{name}".encode(): data for split, wnid, name, data in shapes.rows(imagenet)}
    for listing in source.listings():
        place = listing.take_one(0)
        assert str(tmp_path) in source.readers[listing.split].where(place)


def test_a_job_begun_from_one_shape_may_be_finished_from_another(imagenet, folder_shards, tmp_path):
    out = tmp_path / "out"
    make_shards(shapes.tfds(imagenet, tmp_path / "tfds"), out, size=32)
    (out / "manifest.json").unlink()
    (out / "val-00000-of-00001.arrow").unlink()
    make_shards(shapes.tars(imagenet, tmp_path / "tars"), out, size=32)

    assert (out / "val-00000-of-00001.arrow").read_bytes() == (folder_shards / "val-00000-of-00001.arrow").read_bytes()


def test_ilsvrc2010_has_labelled_test_images_and_its_own_classes(tmp_path):
    source = find_source(shapes.ilsvrc2010(tmp_path / "src"))
    found = listed(source)

    assert source.classes == ["n00000001", "n00000002", "n00000003"]
    assert {split: len(images) for split, images in found.items()} == {"train": 12, "val": 4, "test": 4}
    assert dict(found["test"]) == {
        "test/n00000003/ILSVRC2010_test_00000001.JPEG": "n00000003",
        "test/n00000001/ILSVRC2010_test_00000002.JPEG": "n00000001",
        "test/n00000002/ILSVRC2010_test_00000003.JPEG": "n00000002",
        "test/n00000003/ILSVRC2010_test_00000004.JPEG": "n00000003",
    }


@pytest.mark.parametrize("meta", [True, False])
def test_the_devkits_order_is_that_of_its_numbers_with_and_without_scipys_file(imagenet, tmp_path, meta):
    root = shapes.tars(imagenet, tmp_path / "src")
    shapes.write_devkit(root / "ILSVRC2012_devkit_t12.tar.gz", meta)
    source = find_source(root, "devkit")
    number = shapes.devkit_numbers()

    assert source.classes == sorted(imagenet["train"], key=number.get)
    assert source.classes != sorted(source.classes)
    assert all(key.split("/")[1] == class_id for images in listed(source).values() for key, class_id in images)


def test_the_devkits_order_needs_the_devkit(imagenet, tmp_path):
    with pytest.raises(DataError, match="put ILSVRC2012_devkit_t12.tar.gz into"):
        find_source(shapes.tars(imagenet, tmp_path / "src"), "devkit")


def test_an_unpacked_devkit_will_do(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path / "src")
    with tarfile.open(shapes.write_devkit(tmp_path / "d.tar.gz")) as archive:
        archive.extractall(root, filter="data")

    assert find_source(root, "devkit").classes == sorted(imagenet["train"], key=shapes.devkit_numbers().get)


def test_the_table_of_validation_labels_has_fifty_of_each_class():
    ids, labels = ilsvrc2012()

    assert (len(ids), len(labels), ids) == (1000, 50_000, sorted(ids))
    assert set(np.bincount(labels).tolist()) == {50}
    assert (ids[0], ids[999], [ids[label] for label in labels[:3]]) == ("n01440764", "n15075141", ["n01751748", "n09193705", "n02105855"])


def test_an_unpacked_validation_folder_beside_the_training_tar_is_found(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path / "src")
    (root / "ILSVRC2012_img_val.tar").unlink()
    shapes.flat_folder({"val": imagenet["val"], "train": {}}, root)

    assert {split: len(images) for split, images in listed(find_source(root)).items()} == {"train": 24, "val": 6}


def test_a_validation_folder_alone_is_the_val_split(imagenet, tmp_path):
    shapes.flat_folder({"val": imagenet["val"]}, tmp_path)

    assert {split: len(images) for split, images in listed(find_source(tmp_path / "val")).items()} == {"val": 6}


def test_one_tar_is_a_source(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path)

    assert {split: len(images) for split, images in listed(find_source(root / "ILSVRC2012_img_train.tar")).items()} == {"train": 24}


def test_what_ilsvrc2012_should_have_and_this_has_not_is_named(tmp_path):
    ids, _ = ilsvrc2012()
    make_images(tmp_path, {f"train/{wnid}": 1 for wnid in ids[:950]})
    notes = "\n".join(find_source(tmp_path).notes())

    assert "950 of ILSVRC2012's 1000 classes are here; missing: " + ids[950] in notes
    assert "train has 950 images; ILSVRC2012 has 1,281,167: 1,280,217 missing" in notes
    assert "there is no val split" in notes


def test_labels_that_contradict_the_images_names_are_refused(imagenet, tmp_path):
    root = shapes.tfds(imagenet, tmp_path / "src")
    shapes.tfrecord([shapes.example({"file_name": b"n01440764_9.JPEG", "image": b"", "label": 2})], root / "imagenet2012-train.tfrecord-00009")

    with pytest.raises(DataError, match="the label 2 is n01484850 in one image and n01440764 in n01440764_9.JPEG"):
        find_source(root)


def test_class_names_of_the_files_or_else_numbers_name_the_classes(tmp_path):
    table = pa.table({"image": [jpeg(picture(0))] * 3, "label": [0, 10, 2]})
    pq.write_table(table, tmp_path / "a.parquet")

    assert find_source(tmp_path).classes == ["00", "02", "10"]


def test_a_record_of_another_label_order_is_noted(imagenet, tmp_path):
    examples = [
        shapes.example({"file_name": name, "image": b"x", "label": label}) for name, label in ((b"n00000002_1.JPEG", 0), (b"n00000001_1.JPEG", 1))
    ]
    shapes.tfrecord(examples, tmp_path / "x-train.tfrecord-00000-of-00001")
    source = find_source(tmp_path)

    assert source.classes == ["n00000001", "n00000002"]
    assert any("in another order" in note for note in source.notes())


def test_images_without_a_label_are_not_read_and_noted(tmp_path):
    images = [{"bytes": jpeg(picture(0)), "path": None}] * 2
    pq.write_table(pa.table({"image": images, "label": pa.array([-1, 0])}), tmp_path / "test-00000-of-00001.parquet")
    source = find_source(tmp_path)

    assert [len(listing) for listing in source.listings()] == [1]
    assert "1 images without a label" in source.notes()[0]


# Folders


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


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    make_images(tmp_path / "src", {"train/a": 2})
    (tmp_path / "src/train/a/m.JPEG").symlink_to("/proc/self/mem")
    run = command("alexprep", "shard", "--src", tmp_path / "src", "--out", tmp_path / "out", "--size", "32")

    assert run.returncode == 1
    assert f"Error: {tmp_path}/src/train/a/m.JPEG: Input/output error" in run.stderr


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


# Hostile tars, parquet, TFRecord


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


@given(cut=st.floats(0.01, 0.999))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("shape", ["tars", "WebDataset", "parquet", "TFDS"])
def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path_factory, shape, cut):
    root = SHAPES[shape](shapes.imagenet(), tmp_path_factory.mktemp("cut") / "src")
    victim = min(path for path in root.rglob("*train*") if path.is_file())
    data = victim.read_bytes()
    whole = every_image(find_source(victim))
    victim.write_bytes(data[: int(len(data) * cut)])
    try:
        assert every_image(find_source(victim)) == whole  # only padding is missing
    except DataError as error:
        known = r"fetch it again|of several shapes|no images|is a file that is no tar|is no tf.train|has no label|has no image"
        assert re.search(known, str(error))


def test_two_members_of_one_name_in_a_class_tar_are_refused(tmp_path):
    shapes.tar([("n01440764_1.JPEG", b"x"), ("n01440764_1.JPEG", b"y")], tmp_path / "class.tar")
    shapes.tar([("n01440764.tar", (tmp_path / "class.tar").read_bytes())], tmp_path / "train.tar")

    with pytest.raises(DataError, match=r"two images called train/n01440764/n01440764_1\.JPEG"):
        find_source(tmp_path / "train.tar")


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


def test_a_json_label_may_be_a_class_id(tmp_path):
    files = [("a.jpg", jpeg(picture(0))), ("a.json", b'{"wnid": "n01440764", "filename": "n01440764_5.JPEG"}')]
    source = find_source(shapes.tar(files, tmp_path / "train.tar"))

    assert listed(source) == {"train": [("train/n01440764/n01440764_5.JPEG", "n01440764")]}


# The command


def test_inspect_says_what_it_sees_before_anything_runs(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path / "src", devkit=True)
    run = command("alexprep", "inspect", root)

    assert run.returncode == 0, run.stderr
    for text in (
        "ILSVRC tar of class tars and ILSVRC validation tar",
        "train        24 images of 3 classes",
        "val          6 images of 3 classes",
        "0 n01440764, 1 n01443537",
        "first key    train/n01440764/n01440764_0.JPEG",
        "the classes are from",
    ):
        assert text in run.stdout
    facts = json.loads(command("alexprep", "inspect", root, "--json", "--label-order", "devkit").stdout)
    assert facts["splits"] == {"train": {"images": 24, "classes": 3}, "val": {"images": 6, "classes": 3}}
    assert facts["classes"] == sorted(imagenet["train"], key=shapes.devkit_numbers().get)


def test_a_key_leads_back_to_the_bytes(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path / "src")
    key = "train/n01443537/n01443537_7.JPEG"
    said = command("alexprep", "inspect", root, "--find", key).stdout
    first, last = map(int, said.split("(bytes ")[1].rstrip(")\n").split(".."))

    assert said.startswith(f"{root}/ILSVRC2012_img_train.tar, member n01443537_7.JPEG")
    assert (root / "ILSVRC2012_img_train.tar").read_bytes()[first : last + 1] == imagenet["train"]["n01443537"]["n01443537_7.JPEG"]
    assert command("alexprep", "inspect", root, "--find", "nothing").returncode == 1


def test_a_decompression_bomb_is_quarantined_in_little_memory_and_time(tmp_path):
    """A PNG of 60,000 x 60,000 pixels and 400 bytes, and one of the same that lies about its size."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2_000_000))) + chunk(b"IEND", b"")
    make_images(tmp_path / "src", {"a": 4})
    (tmp_path / "src/a/bomb.JPEG").write_bytes(bomb)
    (tmp_path / "src/a/jpeg.JPEG").write_bytes(wide_jpeg())
    manifest = make_shards(tmp_path / "src", tmp_path / "out", size=16, max_bad=0.5)

    assert (manifest.splits["train"].records, manifest.splits["train"].quarantined) == (4, 2)
    assert len(bomb) < 3000


def wide_jpeg():
    """A JPEG whose header claims 65,000 x 65,000 pixels."""
    data = bytearray(jpeg(picture(0)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def test_io_of_windows_is_bounded(tmp_path):
    from alexprep.pipeline.sources.reading import ByteWindow

    (tmp_path / "f").write_bytes(bytes(100))
    window = ByteWindow(tmp_path / "f", 10, 20)

    assert len(window.read(50)) == 20
    with pytest.raises(DataError, match="a header of"):
        window.read(1 << 21)
    window.close()


@given(data=st.binary(max_size=600))
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_the_protocol_buffer_reader(data):
    from alexprep.pipeline.sources.formats.tfrecord import parse_example

    try:
        parse_example(memoryview(data))
    except ValueError:
        return


@given(data=st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("shape", ["tars", "WebDataset", "parquet", "TFDS"])
def test_flipped_bytes_never_break_a_parser(tmp_path_factory, shape, data):
    """A file with a few bytes changed is listed and read, or refused with a message; nothing else."""
    root = tmp_path_factory.getbasetemp() / f"flip-{shape}"
    if not root.exists():
        SHAPES[shape](shapes.imagenet(), root)
    whole = min(path for path in root.rglob("*train*") if path.is_file()).read_bytes()
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    victim = tmp_path_factory.getbasetemp() / f"x-train-{shape.lower()}"
    victim.write_bytes(damaged)
    try:
        source = find_source(victim)
        for listing in source.listings():
            for _, _, place in listing.rows()[:3]:
                source.read(listing.split, place)
    except (DataError, OSError):
        return
    finally:
        from alexprep.pipeline.sources import reading
        from alexprep.pipeline.sources.formats import parquet

        for cache in (parquet._opened, parquet._group, reading._opened):
            cache.cache_clear()  # the next example is another file of the same name


def test_an_empty_tar_is_no_source(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    (tmp_path / "train.tar").write_bytes(buffer.getvalue())

    with pytest.raises(DataError):
        find_source(tmp_path)
