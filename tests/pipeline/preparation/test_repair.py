"""Damaged shards are made again, and nothing else."""

import pytest

from ...support.commands import command
from ...support.faults import snapshot
from ...support.images import make_images

pytestmark = pytest.mark.process


@pytest.mark.parametrize("damage", ["flip", "cut", "lost", "sidecar", "sums", "manifest"])
def test_repair_makes_what_is_damaged_again_and_nothing_else(images, shards, copy, damage):
    victim = copy / "train-00000-of-00002.arrow"
    data = bytearray(victim.read_bytes())
    if damage == "flip":
        data[5000] ^= 1
        victim.write_bytes(data)
    elif damage == "cut":
        victim.write_bytes(data[:-100])
    elif damage == "lost":
        victim.unlink()
    elif damage == "sidecar":
        (copy / f"{victim.name}.json").write_text("{}")
    elif damage == "sums":
        (copy / f"{victim.name}.pixelsum.npy").unlink()
    else:
        (copy / "manifest.json").write_text("{")
    untouched = copy / "train-00001-of-00002.arrow"
    before = untouched.stat().st_mtime_ns
    if damage != "manifest":
        run = command("alexprep", "verify", copy)
        assert run.returncode == 1
        assert "1 of 3 shards are damaged" in run.stderr
        assert victim.name in run.stdout
    run = command("alexprep", "repair", copy, "--src", images)

    assert run.returncode == 0, run.stderr
    assert snapshot(copy) == snapshot(shards / "jpeg")
    assert untouched.stat().st_mtime_ns == before
    assert command("alexprep", "verify", copy, "--deep").returncode == 0


def test_repair_refuses_another_source(copy, tmp_path):
    (copy / "train-00000-of-00002.arrow").unlink()
    make_images(tmp_path / "other", {"train/ant": 3, "train/bee": 3})
    before = snapshot(copy)
    run = command("alexprep", "repair", copy, "--src", tmp_path / "other")

    assert run.returncode == 1
    assert "was not made from this source" in run.stderr
    assert snapshot(copy) == before


@pytest.mark.parametrize("command_", ["append", "repair", "shard"])
def test_no_number_is_no_share(copy, images, command_):
    arguments = ["--out", copy] if command_ == "shard" else [copy]
    run = command("alexprep", command_, *arguments, "--src", images, "--max-bad", "nan")

    assert run.returncode == 2
    assert "max_bad is a share, 0..1; got nan" in run.stderr
