"""A data set in the shapes that others read."""

import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from alexprep.pipeline import DataError, Records, read_manifest
from alexprep.pipeline.imaging.codec import decode_record
from alexprep.pipeline.preparation.export import export
from alexprep.pipeline.storage.files import aside

from ...support.commands import command
from ...support.shards import make_shards


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("shape", ["parquet", "webdataset", "imagefolder"])
def test_what_is_exported_is_a_source_of_the_same_records(shards, tmp_path, shape, encoding):
    """Out and in again, at the same size and raw: the pixels and keys are the same."""
    manifest = read_manifest(shards / encoding)
    assert list(export(manifest, tmp_path / "out", shape))[-1] == 150
    back = make_shards(tmp_path / "out", tmp_path / "back", size=64, encoding="raw")
    for split in manifest.splits:
        first, second = Records(manifest, split), Records(back, split)
        pixels = {first.key(i): first.image(i) for i in range(len(first))}
        again = {second.key(i).removesuffix(".png"): second.image(i) for i in range(len(second))}
        assert set(pixels) == set(again)
        for key, image in pixels.items():
            assert np.array_equal(decode_record(image) if encoding == "jpeg" else image, again[key])


def test_exported_parquet_shows_images_and_class_names(shards, tmp_path):
    list(export(read_manifest(shards / "jpeg"), tmp_path / "out", "parquet"))
    table = pq.read_table(tmp_path / "out/data/val-00000-of-00001.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]

    assert table.num_rows == 20
    assert features["label"]["names"] == ["ant", "bee"]
    assert features["image"] == {"_type": "Image"}


def test_exported_tars_are_webdatasets(shards, tmp_path):
    list(export(read_manifest(shards / "jpeg"), tmp_path / "out", "webdataset"))
    with tarfile.open(tmp_path / "out/train-00000-of-00002.tar") as archive:
        names = archive.getnames()[:3]
        facts = json.load(archive.extractfile("00000000.json"))

    assert names == ["00000000.jpg", "00000000.cls", "00000000.json"]
    assert facts["key"].startswith("train/")


def test_a_folder_for_ffcv_is_in_stored_order_with_a_script(shards, tmp_path):
    manifest = read_manifest(shards / "jpeg")
    list(export(manifest, tmp_path / "out", "ffcv-ready"))
    records = Records(manifest, "train")
    files = sorted((tmp_path / "out/train").glob("*/*"), key=lambda path: path.name)

    assert [path.read_bytes() for path in files] == [records.image(i).tobytes() for i in range(130)]
    assert [int(path.parent.name) for path in files] == records.labels(np.arange(130)).tolist()
    compile((tmp_path / "out/write_beton.py").read_text(), "write_beton.py", "exec")


def test_an_export_is_there_whole_or_not_at_all(shards, tmp_path):
    steps = export(read_manifest(shards / "jpeg"), tmp_path / "out", "imagefolder")
    next(steps)
    steps.close()

    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="is already there"):
        next(export(read_manifest(shards / "jpeg"), tmp_path / "out", "imagefolder"))


@pytest.mark.process
def test_damage_is_not_exported_and_killed_exports_leave_nothing_for_ever(copy, tmp_path):
    aside(tmp_path / "gone", "999999999").mkdir()
    assert command("alexprep", "export", copy, "--to", "imagefolder", "--out", tmp_path / "gone").returncode == 0
    assert not list(tmp_path.glob(".gone*"))
    path = copy / "train-00001-of-00002.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    run = command("alexprep", "export", copy, "--to", "imagefolder", "--out", tmp_path / "out")

    assert run.returncode == 1
    assert "train-00001-of-00002.arrow is not as it was written" in run.stderr
    assert not (tmp_path / "out").exists()


def test_a_key_that_leads_out_of_the_folder_is_not_exported(copy, tmp_path):
    value = json.loads((copy / "manifest.json").read_text())
    value["classes"] = [["..", ".."], ["bee", "bee"]]
    (copy / "manifest.json").write_text(json.dumps(value))

    with pytest.raises(DataError, match="the class '..' cannot be a name in a folder"):
        list(export(read_manifest(copy), tmp_path / "out", "imagefolder"))
    assert not (tmp_path / "out").exists()
