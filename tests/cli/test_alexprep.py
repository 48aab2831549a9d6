"""`alexprep` as a user runs it: results, and wrong use."""

import json
import shutil

import pytest

from ..support.commands import called, command


@pytest.mark.process
def test_shard_prints_its_result_as_json_and_nothing_else_on_stdout(images, tmp_path):
    run = command("alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--size", "32", "--json")
    value = json.loads(run.stdout)

    assert run.returncode == 0
    assert value["out"] == str(tmp_path / "out")
    assert set(value["splits"]) == {"train", "val"}
    assert value["splits"]["train"] == {"records": 130, "shards": 2, "quarantined": 0, "bytes": value["splits"]["train"]["bytes"]}
    assert value["splits"]["train"]["bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").glob("train-*.arrow"))
    assert value["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("shard", "--src", "nowhere"), 1, "Error: no folder nowhere: expected one with train/<class>/<image>"),
        (("shard", "--src", "."), 2, "--out shards lies inside --src ."),
        (("shard", "--src", ".", "--out", "../x", "--size", "4"), 2, "size must be 8..4096 pixels, got 4"),
        (("shard", "--src", "IMAGES", "--out", "x", "--max-bad", "nan"), 2, "max_bad is a share, 0..1; got nan"),
        (("shard", "--src", ".", "--out", "../x", "--max-bad", "2"), 2, "2.0 is not in the range 0<=x<=1"),
        (("stats", "nowhere", "--pca"), 1, "Error: no nowhere/manifest.json: run alexprep shard first"),
        (("demo-data", "--out", "."), 1, "Error: . is already there"),
    ],
    ids=str,
)
def test_wrong_use_of_alexprep_is_one_clear_message(images, tmp_path, arguments, code, message):
    run = called("alexprep", *(images if argument == "IMAGES" else argument for argument in arguments), cwd=tmp_path)

    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not run.stdout


def test_the_environment_names_the_shards(data, tmp_path):
    shutil.copytree(data, tmp_path / "elsewhere")  # stats writes into it
    run = called("alexprep", "stats", "--json", cwd=tmp_path, env={"ALEXPREP_DATA": str(tmp_path / "elsewhere")})

    assert json.loads(run.stdout)["images"] == 130


@pytest.mark.process
def test_demo_data_has_imagenets_odd_files(tmp_path):
    from PIL import Image

    run = called("alexprep", "demo-data", "--out", tmp_path / "d", "--train", "8", "--val", "4")
    assert run.returncode == 0, run.stderr
    kinds = set()
    for path in (tmp_path / "d").rglob("*.*"):
        try:
            with Image.open(path) as image:
                kinds.add((image.format, image.mode))
                kinds |= {"rotated"} if image.getexif().get(0x0112) == 6 else set()
                kinds |= {"tiny"} if min(image.size) < 64 else set()
                image.load()
        except OSError as error:
            kinds.add("truncated" if "truncated" in str(error) else "text")

    assert kinds == {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), "rotated", "tiny", "truncated", "text"}
    assert len(list((tmp_path / "d/train").iterdir())) == 10
    assert not list(tmp_path.glob(".*"))
