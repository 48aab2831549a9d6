"""What a file says is believed as far as it can be checked: names, sums, sizes. What cannot be is refused by name, and nothing is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from alexprep.pipeline import DataError, Loader, compute_stats, read_manifest
from alexprep.pipeline.imaging.moments import Moments, MomentsCounter
from alexprep.pipeline.names import why_unsafe
from alexprep.pipeline.preparation.verify import Verification
from alexprep.pipeline.shards.sidecar import sums_digest
from alexprep.pipeline.shards.stats import load_stats
from alexprep.pipeline.storage.uri import read_file
from hypothesis import given, settings
from hypothesis import strategies as st

from ...support.commands import command
from ...support.images import make_images
from ...support.shards import edit, unbound, write_statistics

# Names

HOSTILE = ("../../../escaped", "/tmp/escaped", "a/../../b", "..", ".", "", ".hidden", "a\0b", "a\nb", "x" * 300, "\ud800")


@given(st.text(max_size=300))
def test_what_passes_the_gate_is_one_part_of_a_path(name):
    if why_unsafe(name) is None:
        assert os.path.basename(name) == name
        assert name not in ("", ".", "..")
        assert len(os.fsencode(name)) <= 255


def commands(directory, src, out):
    """Every command that reads a data set, as (program, arguments)."""
    return (
        ("alexprep", "verify", directory),
        ("alexprep", "verify", directory, "--deep"),
        ("alexprep", "stats", directory, "--pca"),
        ("alexprep", "finalize", directory),
        ("alexprep", "export", directory, "--to", "parquet", "--out", out),
        ("alexprep", "export", directory, "--to", "webdataset", "--out", out),
        ("alexprep", "export", directory, "--to", "imagefolder", "--out", out),
        ("alexprep", "export", directory, "--to", "ffcv-ready", "--out", out),
        ("alexprep", "diff", directory, directory),
        ("alexprep", "preview", directory, "--out", out / "sheet.png"),
        ("alexprep", "bench", directory),
        ("alexprep", "serve", directory, "--bind", "127.0.0.1:0", "--http", ""),
        ("alexprep", "repair", directory, "--src", src),
        ("alexprep", "append", directory, "--src", src),
        ("alextrain", "run", directory, "--steps", "1", "--crop", "48", "--out", out / "run"),
    )


def hostile(copy, where, name):
    """The data set with a hostile name: of a split, a class or a shard, in the manifest and in the job."""
    if where == "split":
        edit(copy / "manifest.json", lambda m: m["splits"].update({name: m["splits"].pop("val")}))
        edit(copy / "job.json", lambda m: m["images"].update({name: m["images"].pop("val")}))
    elif where == "class":
        edit(copy / "manifest.json", lambda m: m["classes"].__setitem__(0, [name, name]))
        edit(copy / "job.json", lambda m: m["classes"].__setitem__(0, name))
    else:
        edit(copy / "manifest.json", lambda m: m["splits"]["train"]["shards"][0].update(file=name))
        edit(copy / "job.json", lambda m: m["images"].update({name: 1}))


@pytest.mark.parametrize("where", ["split", "class", "shard"])
@pytest.mark.parametrize("name", [name for name in HOSTILE if name != ".hidden"], ids=range(len(HOSTILE) - 1))
def test_a_hostile_name_in_a_manifest_is_refused_when_it_is_read(copy, where, name):
    hostile(copy, where, name)

    with pytest.raises(DataError, match=r"not a manifest of ours"):
        read_manifest(copy)


@pytest.mark.process
def test_no_command_writes_outside_of_its_folder_for_a_name_in_a_file(copy, tmp_path):
    hostile(copy, "split", "../../../escaped")
    (tmp_path / "deep/a/b/c").mkdir(parents=True)
    make_images(tmp_path / "src", {"train/ant": 1, "val/ant": 1})
    before = sorted(tmp_path.rglob("*"))
    for program, *arguments in commands(copy, tmp_path / "src", tmp_path / "deep/a/b/c/out"):
        run = command(program, *arguments, cwd=tmp_path / "deep", timeout=60)
        assert run.returncode == 1, (arguments, run.stdout, run.stderr)
        assert "Traceback" not in run.stderr, arguments
        assert "not a " in run.stderr, (arguments, run.stderr)  # manifest of ours, or job file of alexprep

    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("key", ["train/ant/../../x", "train/ant//etc/x"])
def test_keys_of_records_do_not_lead_out_of_an_exported_folder(copy, tmp_path, monkeypatch, key):
    from alexprep.pipeline.preparation.export import export
    from alexprep.pipeline.shards.reader import Records

    monkeypatch.setattr(Records, "key", lambda *_: key)

    with pytest.raises(DataError, match="cannot be a name in a folder"):
        list(export(read_manifest(copy), tmp_path / "out", "imagefolder"))
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


# Sums


@st.composite
def pictures(draw):
    seed, count, kind = draw(st.integers(0, 999)), draw(st.integers(1, 5)), draw(st.sampled_from(["noise", "flat", "black", "white", "one channel"]))
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    if kind == "flat":
        found[:] = found[0, 0, 0]
    if kind in ("black", "white"):
        found[:] = 255 * (kind == "white")
    if kind == "one channel":
        found[..., 1:] = 0
    return found


def counted(images):
    counter = MomentsCounter(4)
    for image in images:
        counter.add(image)
    return counter.moments()


@given(pictures())
@settings(deadline=None)
def test_the_sums_of_any_images_pass_the_check(images):
    moments = counted(images)

    assert Moments.from_json(json.loads(json.dumps(moments.to_json())), moments.pixel_sum) == moments


def changed(moments, change):
    value = json.loads(json.dumps(moments.to_json()))
    change(value)
    return lambda: Moments.from_json(value, moments.pixel_sum)


def opposed(value):
    """Make R like G, R like B, and G unlike B: each pair could be, all three cannot."""
    n, total, outer = 3 * 16, value["total"], value["outer"]
    for i, j, sign in ((0, 1, 0.9), (0, 2, 0.9), (1, 2, -0.9)):
        spread = ((n * outer[i][i] - total[i] ** 2) * (n * outer[j][j] - total[j] ** 2)) ** 0.5
        outer[i][j] = outer[j][i] = int((sign * spread + total[i] * total[j]) / n)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v["outer"][0].__setitem__(0, 1),
        lambda v: v["outer"][0].__setitem__(0, -(10**15)),
        lambda v: v["outer"][0].__setitem__(0, 10**300),
        lambda v: v["outer"][1].__setitem__(1, int("9" * 400)),
        lambda v: v["outer"][0].__setitem__(1, v["outer"][0][1] + 1),
        lambda v: [v["outer"][0].__setitem__(1, 0), v["outer"][1].__setitem__(0, 0)],
        lambda v: v["total"].__setitem__(2, 0),
        lambda v: v.update(images=0),
        lambda v: v["outer"][0].__setitem__(0, float(v["outer"][0][0])),
        lambda v: v.update(images=True),
        opposed,
    ],
    ids=range(11),
)
def test_sums_that_no_images_have_are_refused(change):
    moments = counted(np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8))

    with pytest.raises((ValueError, TypeError)):
        changed(moments, change)()


@pytest.mark.process
@pytest.mark.parametrize("value", [1, -(10**15), 10**300, int("9" * 400)])
@pytest.mark.parametrize("has_stats", [False, True])
def test_impossible_sums_of_an_early_release_reach_neither_statistics_nor_training(copy, value, has_stats):
    if has_stats:
        assert command("alexprep", "stats", copy, "--pca").returncode == 0
    sidecar = unbound(copy) / "train-00000-of-00002.arrow.json"
    edit(sidecar, lambda s: s["moments"]["outer"][0].__setitem__(0, value))
    check = Verification(read_manifest(copy))
    list(check.run())

    assert [problem.file for problem in check.problems] == [sidecar.name]
    assert "the sums cannot be used" in check.problems[0].what
    run = command("alexprep", "stats", copy, "--pca")
    assert (run.returncode, run.stdout) == (1, "")
    assert sidecar.name in run.stderr
    assert "Traceback" not in run.stderr
    if not has_stats:
        with pytest.raises(DataError, match=sidecar.name):
            Loader(str(copy), split="train", batch_size=2, crop=48)


@pytest.mark.parametrize(
    "change",
    [lambda s: s["moments"]["outer"][0].__setitem__(0, s["moments"]["outer"][0][0] + 1), lambda s: s.update(sha256="0" * 64)],
    ids=["sum", "shard"],
)
def test_sums_are_bound_to_their_shard(copy, change):
    sidecar = copy / "train-00000-of-00002.arrow.json"
    edit(sidecar, change)
    check = Verification(read_manifest(copy))
    list(check.run())

    assert {problem.file for problem in check.problems} == {sidecar.name}
    with pytest.raises(DataError, match=sidecar.name.removesuffix(".json")):
        compute_stats(read_manifest(copy))


def test_sums_that_were_bound_again_are_not_those_of_the_manifest(copy):
    """Whoever changes the sums of a sidecar can compute their digest, too; the manifest has another."""
    sidecar = copy / "train-00000-of-00002.arrow.json"
    pixel_sum = np.load(copy / "train-00000-of-00002.arrow.pixelsum.npy")

    def rebind(value):
        value["moments"]["outer"][0][0] += 1
        value["sums_sha256"] = sums_digest(value["sha256"], value["moments"], pixel_sum)

    edit(sidecar, rebind)
    check = Verification(read_manifest(copy))
    list(check.run())

    assert {problem.file for problem in check.problems} == {sidecar.name}
    with pytest.raises(DataError, match="is of another job"):
        compute_stats(read_manifest(copy))


def test_a_changed_mean_image_is_not_trained_with(copy):
    write_statistics(copy)
    image = np.load(copy / "mean_image.npy")
    image[3, 4, 1] += 1e-3
    np.save(copy / "mean_image.npy", image)
    check = Verification(read_manifest(copy))
    list(check.run())

    assert [problem.file for problem in check.problems] == ["mean_image.npy"]
    with pytest.raises(DataError, match="the numbers are not those that were written"):
        load_stats(read_manifest(copy))


# Sizes


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, name) for kind in ("device", "sparse") for name in ("train-00000-of-00002.arrow.pixelsum.npy", "stats.json", "mean_image.npy")),
        *((kind, "train-00000-of-00002.arrow.json") for kind in ("device", "sparse", "pipe", "folder")),
        ("device", "manifest.json"),
        ("sparse", "manifest.json"),
    ],
)
def test_every_file_of_a_data_set_has_a_bound_and_is_a_regular_file(copy, name, kind):
    write_statistics(copy)
    path = copy / name
    path.unlink()
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    program = Path(sys.executable).parent / "alexprep"
    limited = ["bash", "-c", f"ulimit -v 8000000; exec {program} verify {copy}"]
    run = subprocess.run(limited, capture_output=True, text=True, timeout=60)

    assert run.returncode == (0 if kind in ("device", "pipe", "folder") and name == "stats.json" else 1), run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    assert run.returncode == 0 or name in run.stderr + run.stdout


@pytest.mark.process
@pytest.mark.parametrize("content", ["device", "pipe", "large"])
def test_files_that_the_user_names_are_bounded_too(shards, tmp_path, content):
    path = tmp_path / "file"
    path.symlink_to("/dev/zero") if content == "device" else os.mkfifo(path) if content == "pipe" else path.touch()
    if content == "large":
        os.truncate(path, 1 << 40)
    named = path.parent / "token"
    named.symlink_to(path)

    with pytest.raises(DataError, match="not a regular file|more than"):
        read_file(path, 1 << 20)
    for arguments in (("alextrain", "run", shards / "jpeg", "--config", path, "--steps", "1"), ("alextrain", "eval", "--checkpoint", path)):
        run = command(*arguments, timeout=60, cwd=tmp_path)
        assert run.returncode in (1, 2), run.stderr
        assert "Traceback" not in run.stderr, run.stderr
