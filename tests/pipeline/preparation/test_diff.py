"""What differs between two data sets."""

import json

import pytest
from alexprep.pipeline import read_manifest
from alexprep.pipeline.preparation.diff import difference

from ...support.commands import command
from ...support.images import jpeg, make_images, picture
from ...support.shards import make_shards


@pytest.mark.process
def test_diff_names_what_was_added_removed_relabelled_and_reencoded(tmp_path):
    for name in ("a", "b"):
        make_images(tmp_path / name, {"train/ant": 6, "train/bee": 6})
    b = tmp_path / "b/train"
    (b / "ant/000.JPEG").unlink()
    (b / "ant/new.JPEG").write_bytes(jpeg(picture(1)))
    (b / "bee/001.JPEG").write_bytes(jpeg(picture(2)))
    for name in ("a", "b"):
        make_shards(tmp_path / name, tmp_path / f"shards_{name}", size=32)
    run = command("alexprep", "diff", tmp_path / "shards_a", tmp_path / "shards_b", "--json")

    assert run.returncode == 1
    assert json.loads(run.stdout) == {
        "splits": {
            "train": {
                "added": ["train/ant/new.JPEG"],
                "removed": ["train/ant/000.JPEG"],
                "relabelled": [],
                "reencoded": ["train/bee/001.JPEG"],
                "same": 10,
            }
        },
        "parameters": {},
    }
    said = command("alexprep", "diff", tmp_path / "shards_a", tmp_path / "shards_b").stdout
    assert "train: 1 added, 1 removed, 0 relabelled, 1 re-encoded, 10 the same" in said
    assert command("alexprep", "diff", tmp_path / "shards_a", tmp_path / "shards_a").returncode == 0


def test_a_relabelled_record_is_one_whose_class_changed(copy, shards):
    value = json.loads((copy / "manifest.json").read_text())
    value["classes"] = [["ant", "ant"], ["wasp", "wasp"]]
    (copy / "manifest.json").write_text(json.dumps(value))
    found = difference(read_manifest(shards / "jpeg"), read_manifest(copy), "val")

    assert len(found.relabelled) == 9
    assert found.relabelled[0] == ("val/bee/000.JPEG", "bee", "wasp")
