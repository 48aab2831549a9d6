"""Which folder holds the data set, and what lies beside it; what cannot be told is refused by name."""

import pytest
from alexprep.pipeline.sources import find_source

from ...support import shapes
from ...support.commands import command
from ...support.images import jpeg, make_images, picture
from ...support.sources import FILES, every_image, listed, refusal, splits_of, wds


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


def test_classes_in_one_folder_of_a_split_are_found_there(tmp_path):
    make_images(tmp_path, {"seg_train/seg_train/sea": 2, "seg_train/seg_train/ice": 2, "seg_test/seg_test/sea": 1, "seg_test/seg_test/ice": 1})

    assert listed(find_source(tmp_path))["test"] == [("test/ice/000.JPEG", "ice"), ("test/sea/000.JPEG", "sea")]


@pytest.mark.process
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


def test_a_compressed_archive_beside_class_folders_is_noted_and_beside_tars_refused(tmp_path):
    make_images(tmp_path / "a", {"set/train/x": 1, "set/train/y": 1})
    (tmp_path / "a/set.tgz").write_bytes(b"\x1f\x8b and so on")
    wds(tmp_path / "b/train-0.tar", [1])
    shapes.gzipped(wds(tmp_path / "b/train-1.tar", [2]))

    assert splits_of(tmp_path / "a") == {"train": 2}
    assert "train-1.tar is compressed" in refusal(tmp_path / "b")


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


def test_archives_of_boxes_beside_the_official_tars_are_no_reason_to_stop(imagenet, tmp_path):
    shapes.tars(imagenet, tmp_path)
    (tmp_path / "ILSVRC2012_bbox_train_v2.tar.gz").write_bytes(b"\x1f\x8b boxes")

    assert splits_of(tmp_path) == {"train": 24, "val": 6}


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


def test_links_in_circles_above_the_classes_end_in_a_message(tmp_path):
    make_images(tmp_path, {"val/a": 1})
    (tmp_path / "train").mkdir()
    (tmp_path / "train/loop").symlink_to("../train")

    assert "or a link in a circle" in refusal(tmp_path)
