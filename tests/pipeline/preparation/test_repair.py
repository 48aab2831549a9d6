"""Damage is found and mended, differences are told, new images are added, and others can read what is here."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from alexprep.pipeline import DataError, Records, compute_stats, read_manifest
from alexprep.pipeline.imaging.codec import decode_record
from alexprep.pipeline.preparation.append import AppendJob
from alexprep.pipeline.preparation.diff import difference
from alexprep.pipeline.preparation.duplicates import DuplicateSearch, close_pairs
from alexprep.pipeline.preparation.export import export
from alexprep.pipeline.preparation.verify import Verification
from alexprep.pipeline.shards.stats import StatsCheck
from alexprep.pipeline.sources import find_source
from alexprep.pipeline.storage.files import aside
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ...support.commands import children_of, command, workers_of
from ...support.faults import snapshot
from ...support.images import jpeg, make_images, picture
from ...support.paths import ROOT
from ...support.shards import make_shards, unbound


@pytest.fixture
def copy(shards, tmp_path):
    shutil.copytree(shards / "jpeg", tmp_path / "copy")
    return tmp_path / "copy"


def problems(directory, *, deep=False):
    check = Verification(read_manifest(directory), deep=deep, workers=1)
    list(check.run())
    return check.problems


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_what_is_as_it_was_written_has_no_problem(shards, encoding):
    assert problems(shards / encoding, deep=True) == []


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), which=st.sampled_from(["arrow", "arrow.pixelsum.npy"]))
@example(place=0.00122152584155406, bit=0, which="arrow.pixelsum.npy")  # a header that numpy's parser trips over
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_anywhere_is_found(shards, tmp_path_factory, place, bit, which):
    copy = tmp_path_factory.getbasetemp() / "flipped"
    if not copy.exists():
        shutil.copytree(shards / "jpeg", copy)
    path = copy / f"train-00001-of-00002.{which}"
    whole = path.read_bytes()
    data = bytearray(whole)
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = problems(copy)
        # A bit of padding in the .npy's text header changes no number: numpy reads the same sums.
        assert [p for p in found if p.file.startswith("train-00001")] or (which.endswith("npy") and int(place * len(data)) < 128)
    finally:
        path.write_bytes(whole)


def test_deep_finds_what_checksums_cannot(copy):
    """A sidecar of an early release, whose sums were changed in a way that adds up."""
    path = unbound(copy) / "train-00000-of-00002.arrow.json"
    value = json.loads(path.read_text())
    value["moments"]["outer"][0][0] += 1
    path.write_text(json.dumps(value))

    assert problems(copy) == []
    assert ["the sums recomputed" in problem.what for problem in problems(copy, deep=True)] == [True]


def test_statistics_that_do_not_belong_are_found(copy):
    assert command("alexprep", "stats", copy, "--pca").returncode == 0
    assert problems(copy) == []
    path = copy / "stats.json"
    value = json.loads(path.read_text())
    value["mean"][0] += 1e-9
    path.write_text(json.dumps(value))

    assert [problem.file for problem in problems(copy)] == ["stats.json"]


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


def test_duplicates_are_equal_bytes_anywhere_and_nearly_equal_pixels_across_splits(tmp_path):
    make_images(tmp_path / "src", {"train/a": 20, "val/a": 3})
    shutil.copy(tmp_path / "src/train/a/003.JPEG", tmp_path / "src/train/a/copy.JPEG")
    (tmp_path / "src/val/a/again.JPEG").write_bytes(jpeg(np.asarray(Image.open(tmp_path / "src/train/a/005.JPEG")), quality=60))
    make_shards(tmp_path / "src", tmp_path / "out", size=64)
    search = DuplicateSearch(read_manifest(tmp_path / "out"))
    list(search.run())

    assert {(twins.kind, tuple(sorted(twins.where))) for twins in search.found} == {
        ("same bytes", ("train/a/003.JPEG", "train/a/copy.JPEG")),
        ("nearly the same pixels", ("train/a/005.JPEG", "val/a/again.JPEG")),
    }
    said = command("alexprep", "verify", tmp_path / "out", "--duplicates").stdout
    assert "same bytes: " in said
    assert "2 groups of duplicates" in said


@given(hashes=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=8), flips=st.sets(st.integers(0, 63), max_size=6))
def test_close_pairs_are_those_of_a_plain_double_loop(hashes, flips):
    twin = hashes[0]
    for bit in flips:
        twin ^= 1 << bit
    table = np.array([*hashes, twin], np.uint64)
    half = len(table) // 2
    ours, others = np.arange(half), np.arange(half, len(table))
    expected = {(i, j) for i in ours.tolist() for j in others.tolist() if (int(table[i]) ^ int(table[j])).bit_count() <= 3}

    assert close_pairs(table, ours, others) == expected


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


@pytest.mark.parametrize("change", ["infinite sum", "rows"])
def test_numbers_that_cannot_be_are_problems_and_no_tracebacks(copy, change):
    path = copy / ("manifest.json" if change == "rows" else "train-00001-of-00002.arrow.json")
    value = json.loads(path.read_text())
    if change == "rows":
        value["splits"]["train"]["shards"][0]["rows"] = 10**30
    else:
        value["moments"]["outer"][0][0] = float("inf")
    path.write_text(json.dumps(value))
    for arguments in (["verify"], ["verify", "--deep"], ["stats"]):
        run = command("alexprep", arguments[0], copy, *arguments[1:])
        assert run.returncode == 1
        assert "Traceback" not in run.stderr


def test_a_verifier_that_is_killed_leaves_no_process_and_a_killed_worker_is_said(copy):
    arguments = [Path(sys.executable).parent / "alexprep", "verify", copy, "--deep", "--workers", "1"]
    for victim in ("verifier", "worker"):
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 20
        while not (workers := workers_of(process.pid)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        family = [*children_of(process.pid), *workers]
        os.kill(process.pid if victim == "verifier" else workers[0], signal.SIGKILL)
        _, message = process.communicate(timeout=30)  # ends only when nobody holds the pipe
        while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
            time.sleep(0.02)

        assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]
        assert "Traceback" not in message
        if victim == "worker":
            assert "a process that checked shards died" in message


@pytest.mark.parametrize("command_", ["append", "repair", "shard"])
def test_no_number_is_no_share(copy, images, command_):
    arguments = ["--out", copy] if command_ == "shard" else [copy]
    run = command("alexprep", command_, *arguments, "--src", images, "--max-bad", "nan")

    assert run.returncode == 2
    assert "max_bad is a share, 0..1; got nan" in run.stderr


def test_a_key_that_leads_out_of_the_folder_is_not_exported(copy, tmp_path):
    value = json.loads((copy / "manifest.json").read_text())
    value["classes"] = [["..", ".."], ["bee", "bee"]]
    (copy / "manifest.json").write_text(json.dumps(value))

    with pytest.raises(DataError, match="the class '..' cannot be a name in a folder"):
        list(export(read_manifest(copy), tmp_path / "out", "imagefolder"))
    assert not (tmp_path / "out").exists()


def test_the_readers_in_the_docs_read(shards, tmp_path, monkeypatch):
    """The Python block of docs/producing.md, as it stands."""
    (tmp_path / "shards").symlink_to(shards / "jpeg")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"## Reading shards.*?```python\n(.*?)```", (ROOT / "docs/producing.md").read_text(), re.DOTALL)
    script = tmp_path / "read.py"
    script.write_text(code + "print(table.num_rows, len(frame), counts, len(images), images[0]['image'].size, images.features['label'].names)\n")
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = command("python", script, cwd=tmp_path, env=env)

    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[-2] == "65 130 [(0, 66), (1, 64)] 130 (64, 64) ['ant', 'bee']"


def test_a_million_images_are_planned_in_little_memory():
    """The columns are made up, the plan and its digest are real."""
    code = """
import resource, time
import numpy as np, pyarrow as pa
from alexprep.pipeline.config import ShardConfig
from alexprep.pipeline.preparation.plan import SplitShuffle, make_plan
from alexprep.pipeline.sources import Listing, Source
n = 1_400_000
keys = pa.array([f"train/n{i // 1300:08}/n{i // 1300:08}_{i}.JPEG" for i in range(n)], pa.large_binary())
columns = [keys, pa.array(np.full(n, -1, np.int32)), pa.array(np.full(n, -1)), pa.array(np.arange(n))]
places = pa.record_batch(columns, ["name", "file", "offset", "size"])
listing = Listing("train", keys, np.arange(n) // 1300, places)
source = Source("made up", "", [f"n{i:08}" for i in range(1077)], [listing], {}, [])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan, shuffle = make_plan(source, ShardConfig()), SplitShuffle(listing, ShardConfig())
assert len(shuffle.images(7).rows()) == shuffle.count(7)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, len(plan.shards("train")))
"""
    run = command("python", "-c", code)
    kilobytes, count = map(int, run.stdout.split())

    assert count == 342
    assert kilobytes * 1024 / 1_400_000 < 200  # bytes an image
