"""New images become new shards; the old bytes stay."""

import shutil

import numpy as np
import pytest
from alexprep.pipeline import DataError, Records, compute_stats, read_manifest
from alexprep.pipeline.imaging.codec import decode_record
from alexprep.pipeline.preparation.append import AppendJob
from alexprep.pipeline.shards.stats import StatsCheck
from alexprep.pipeline.sources import find_source

from ...support.commands import command
from ...support.faults import snapshot
from ...support.images import make_images
from ...support.shards import problems


@pytest.mark.process
def test_appended_images_are_new_shards_and_the_old_bytes_stay(images, copy, tmp_path):
    before = snapshot(copy)
    make_images(tmp_path / "more", {"train/ant": 0, "train/bee": 5, "test/ant": 2})
    for path in (tmp_path / "more/train/bee").iterdir():
        path.rename(path.with_name(f"new{path.name}"))
    arguments = ["alexprep", "append", copy, "--src", tmp_path / "more"]
    run = command(*arguments)
    manifest = read_manifest(copy)

    assert run.returncode == 0, run.stderr
    assert {name: split.records for name, split in manifest.splits.items()} == {"train": 135, "val": 20, "test": 2}
    for name, data in before.items():
        assert name == "manifest.json" or (copy / name).read_bytes() == data
    records = Records(manifest, "train")
    assert records.key(130).startswith("train/bee/new")
    assert manifest.classes[int(records.labels(np.array([134]))[0])] == "bee"
    pixels = np.stack([decode_record(records.image(i)) for i in range(135)]).astype(np.float64)
    assert np.allclose(compute_stats(manifest).mean_image, pixels.mean(0), rtol=1e-6)
    check = StatsCheck(manifest)
    for record in range(135):
        check.count(record)
    check.finish()
    assert problems(copy, deep=True) == []
    assert command("alexprep", "finalize", copy).returncode == 0  # of the first job alone; what was appended stays
    assert read_manifest(copy) == manifest
    again = command(*arguments)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert command("alexprep", "shard", "--src", images, "--out", copy, "--size", "64").returncode == 0  # the first job is finished still
    assert read_manifest(copy) == manifest
    (tmp_path / "more/train/ant").rmdir()  # the classes of an appended source may be some of the data set's
    shutil.rmtree(tmp_path / "more/test")
    shutil.copytree(tmp_path / "more", tmp_path / "bees")
    (tmp_path / "bees/train/bee/new000.JPEG").rename(tmp_path / "bees/train/bee/newest.JPEG")
    for path in (tmp_path / "bees/train/bee").glob("new0*"):
        path.unlink()
    assert command("alexprep", "append", copy, "--src", tmp_path / "bees").returncode == 0
    (copy / "train+2-00000-of-00001.arrow").unlink()
    mended = command("alexprep", "repair", copy, "--src", tmp_path / "bees")
    assert mended.returncode == 0, mended.stderr
    assert problems(copy, deep=True) == []
    make_images(tmp_path / "more", {"train/ant": 0, "test/ant": 2})
    (copy / "train+1-00000-of-00001.arrow").unlink()
    mended = command("alexprep", "repair", copy, "--src", tmp_path / "more")
    assert mended.returncode == 0, mended.stderr
    assert problems(copy, deep=True) == []


def test_append_refuses_unknown_classes_and_known_images(images, copy, tmp_path):
    make_images(tmp_path / "wasps", {"train/wasp": 2})
    with pytest.raises(DataError, match="has no class wasp"):
        AppendJob(find_source(tmp_path / "wasps"), copy)
    make_images(tmp_path / "known", {"train/ant": 2})
    with pytest.raises(DataError, match="2 of these images already"):
        AppendJob(find_source(tmp_path / "known"), copy)
