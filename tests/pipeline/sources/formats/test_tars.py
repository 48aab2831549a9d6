"""ILSVRC's tars of class tars and of validation images."""

import io
import tarfile

import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.sources import find_source

from ....support import shapes
from ....support.sources import listed, refusal, splits_of, wds


def test_one_tar_is_a_source(imagenet, tmp_path):
    root = shapes.tars(imagenet, tmp_path)

    assert {split: len(images) for split, images in listed(find_source(root / "ILSVRC2012_img_train.tar")).items()} == {"train": 24}


def test_two_members_of_one_name_in_a_class_tar_are_refused(tmp_path):
    shapes.tar([("n01440764_1.JPEG", b"x"), ("n01440764_1.JPEG", b"y")], tmp_path / "class.tar")
    shapes.tar([("n01440764.tar", (tmp_path / "class.tar").read_bytes())], tmp_path / "train.tar")

    with pytest.raises(DataError, match=r"two images called train/n01440764/n01440764_1\.JPEG"):
        find_source(tmp_path / "train.tar")


def test_an_empty_tar_is_no_source(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    (tmp_path / "train.tar").write_bytes(buffer.getvalue())

    with pytest.raises(DataError):
        find_source(tmp_path)


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


def test_a_class_that_two_tars_have_is_refused(imagenet, tmp_path):
    shapes.tars(imagenet, tmp_path)
    (tmp_path / "ILSVRC2012_img_train_t3.tar").write_bytes((tmp_path / "ILSVRC2012_img_train.tar").read_bytes())

    assert "two images called train/n01440764/n01440764_0.JPEG" in refusal(tmp_path)


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


def test_tars_of_two_shapes_in_one_split_are_read_as_both(imagenet, tmp_path):
    shapes.tars(imagenet, tmp_path)
    wds(tmp_path / "train-000.tar", [1], "n01440764")

    assert splits_of(tmp_path)["train"] == 25


def test_a_class_tar_that_lies_alone_is_explained(imagenet, tmp_path):
    shapes.tar(imagenet["train"]["n01440764"].items(), tmp_path / "n01440764.tar")

    assert "unpack a single class tar into a folder named after its class" in refusal(tmp_path)
