"""What an image is called, in every shape: no name clashes, none leads out of its folder."""

import io
import itertools
import tarfile

from alexprep.pipeline.sources import find_source

from ...support import shapes
from ...support.images import jpeg, make_images, picture
from ...support.sources import keys, listed, records, refusal, sample, table, wds


def test_what_was_noted_before_a_refusal_is_told_with_it(tmp_path):
    table(tmp_path / "train.parquet", range(3), label=[-1, -1, -1])
    said = refusal(tmp_path)

    assert "no images under" in said
    assert "3 images without a label" in said


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
