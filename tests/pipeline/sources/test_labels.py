"""What ILSVRC's own files say of labels: the devkit, and the table of validation labels."""

import tarfile

import numpy as np
import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.sources import find_source
from alexprep.pipeline.sources.labels import ilsvrc2012

from ...support import shapes
from ...support.sources import listed, refusal


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


def test_a_damaged_devkit_is_named(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path, devkit=True)
    path = root / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(path.read_bytes()[:2000])

    assert "ILSVRC2012_devkit_t12.tar.gz cannot be read as an archive" in refusal(root)
