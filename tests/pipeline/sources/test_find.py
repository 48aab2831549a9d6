"""What each shape of ImageNet offers: the same images, recognised by content, read where they lie."""

import json

import pytest
from alexprep.pipeline.sources import find_source
from alexprep.pipeline.sources.labels import ilsvrc2012

from ...support import shapes
from ...support.commands import command
from ...support.images import make_images
from ...support.shards import make_shards
from ...support.sources import SHAPES, every_image, listed


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


@pytest.mark.process
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


def test_an_unpacked_validation_folder_beside_the_training_tar_is_found(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path / "src")
    (root / "ILSVRC2012_img_val.tar").unlink()
    shapes.flat_folder({"val": imagenet["val"], "train": {}}, root)

    assert {split: len(images) for split, images in listed(find_source(root)).items()} == {"train": 24, "val": 6}


def test_a_validation_folder_alone_is_the_val_split(imagenet, tmp_path):
    shapes.flat_folder({"val": imagenet["val"]}, tmp_path)

    assert {split: len(images) for split, images in listed(find_source(tmp_path / "val")).items()} == {"val": 6}


@pytest.mark.process
def test_what_ilsvrc2012_should_have_and_this_has_not_is_named(tmp_path):
    ids, _ = ilsvrc2012()
    make_images(tmp_path, {f"train/{wnid}": 1 for wnid in ids[:950]})
    notes = "\n".join(find_source(tmp_path).notes())

    assert "950 of ILSVRC2012's 1000 classes are here; missing: " + ids[950] in notes
    assert "train has 950 images; ILSVRC2012 has 1,281,167: 1,280,217 missing" in notes
    assert "there is no val split" in notes


@pytest.mark.process
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


@pytest.mark.process
def test_a_key_leads_back_to_the_bytes(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path / "src")
    key = "train/n01443537/n01443537_7.JPEG"
    said = command("alexprep", "inspect", root, "--find", key).stdout
    first, last = map(int, said.split("(bytes ")[1].rstrip(")\n").split(".."))

    assert said.startswith(f"{root}/ILSVRC2012_img_train.tar, member n01443537_7.JPEG")
    assert (root / "ILSVRC2012_img_train.tar").read_bytes()[first : last + 1] == imagenet["train"]["n01443537"]["n01443537_7.JPEG"]
    assert command("alexprep", "inspect", root, "--find", "nothing").returncode == 1
