"""The job: same bytes whatever happens, nothing lost, nothing half-written."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline import DataError, Records, ShardConfig, compute_stats, read_manifest
from alexprep.pipeline.imaging.codec import central_square, decode, decode_record
from alexprep.pipeline.preparation.plan import shard_count
from PIL import Image

from ...support.commands import children_of, command, workers_of
from ...support.images import jpeg, make_images, picture
from ...support.shards import make_shards


def digests(directory):
    """Name and hash of every file of a data set."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(directory.iterdir()) if not p.name.startswith(".")}


def every_record(manifest, split):
    records = Records(manifest, split)
    return {records.key(i): (records.image(i).tobytes(), int(records.labels(np.array([i]))[0])) for i in range(len(records))}


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_every_image_becomes_one_record_with_its_label(images, shards, encoding):
    manifest = read_manifest(shards / encoding)
    found = every_record(manifest, "train") | every_record(manifest, "val")

    assert len(found) == 150
    assert set(found) == {str(p.relative_to(images)) for p in images.rglob("*.JPEG")}
    for key, (data, label) in found.items():
        expected = central_square(decode((images / key).read_bytes()), 64)
        pixels = decode_record(data) if encoding == "jpeg" else np.frombuffer(data, np.uint8).reshape(64, 64, 3)
        assert manifest.classes[label] == key.split("/")[1]
        assert abs(pixels.astype(int) - expected).mean() < (3 if encoding == "jpeg" else 1e-9)


@pytest.mark.process
def test_the_bytes_do_not_depend_on_the_number_of_workers(images, tmp_path):
    for workers in (1, 2, 3):
        make_shards(images, tmp_path / str(workers), workers=workers, size=32)

    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tmp_path / "3")


def test_shards_are_plain_arrow_files_with_huggings_faces_description(shards):
    table = pa.ipc.open_file(pa.memory_map(str(shards / "jpeg/train-00000-of-00002.arrow"))).read_all()
    facts = json.loads(table.schema.metadata[b"alexprep"])

    assert table.schema.names == ["image", "label", "key", "width", "height"]
    assert (table["width"][0].as_py(), table["height"][0].as_py()) == (90, 70)
    assert facts["format_version"] == 1
    assert facts["parameters"] == {"size": 64, "encoding": "jpeg", "quality": 95, "records_per_shard": 4096}
    assert json.loads(table.schema.metadata[b"alexprep.classes"]) == [["ant", "ant"], ["bee", "bee"]]
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"] == ["ant", "bee"]


@pytest.mark.process
def test_a_finished_folder_is_left_alone(images, tmp_path):
    make_shards(images, tmp_path, size=32)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.name != ".lock"}
    make_shards(images, tmp_path, size=32)

    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p.name != ".lock"} == before


@pytest.mark.process
def test_lost_or_cut_files_are_made_again_by_the_same_command(images, tmp_path):
    make_shards(images, tmp_path / "whole", size=32)
    make_shards(images, tmp_path / "hurt", size=32)
    names = sorted(p.name for p in (tmp_path / "hurt").glob("train-*.arrow"))
    (tmp_path / "hurt" / names[0]).unlink()
    (tmp_path / "hurt" / names[1]).write_bytes(b"ARROW1")
    make_shards(images, tmp_path / "hurt", size=32)

    assert digests(tmp_path / "hurt") == digests(tmp_path / "whole")


@pytest.mark.parametrize("finished", [True, False])
def test_other_options_or_another_source_never_mix_with_what_is_there(images, tmp_path, finished):
    make_shards(images, tmp_path, size=32)
    if not finished:
        (tmp_path / "manifest.json").unlink()

    with pytest.raises(DataError, match="the source's files or the options were different"):
        make_shards(images, tmp_path, size=32, quality=90)


def test_unusable_files_are_listed_with_their_reasons(tmp_path):
    make_images(tmp_path / "src", {"train/a": 20, "val/a": 5})
    (tmp_path / "src/train/a/notes.txt").write_text("no image")
    (tmp_path / "src/val/a/cut.JPEG").write_bytes(jpeg(picture(0))[:-300])
    (tmp_path / "src/train/a/empty.png").touch()
    Path(os.fsdecode(os.fsencode(tmp_path / "src/train/a") + b"/\xff.JPEG")).write_bytes(jpeg(picture(0)))
    manifest = make_shards(tmp_path / "src", tmp_path / "out", size=32, max_bad=0.2)
    rows = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]

    assert [(row["split"], row["key"]) for row in rows] == [
        ("train", "train/a/\\xff.JPEG"),
        ("train", "train/a/empty.png"),
        ("train", "train/a/notes.txt"),
        ("val", "val/a/cut.JPEG"),
    ]
    for row, reason in zip(rows, ["not UTF-8", "empty file", "not an image", "truncated"], strict=True):
        assert reason in row["reason"]
    assert {name: (split.records, split.quarantined) for name, split in manifest.splits.items()} == {"train": (20, 3), "val": (5, 1)}


@pytest.mark.process
def test_too_many_unusable_files_stop_the_job_and_more_patience_continues_it(tmp_path):
    make_images(tmp_path / "src", {"a": 40})
    for number in range(10):
        (tmp_path / f"src/a/{number:03}.JPEG").write_bytes(b"no image")
    with pytest.raises(DataError, match="more than --max-bad 0.1 allows"):
        make_shards(tmp_path / "src", tmp_path / "out", size=32, max_bad=0.1)
    assert not (tmp_path / "out/manifest.json").exists()
    assert 4 < len((tmp_path / "out/quarantine.jsonl").read_text().splitlines()) <= 10

    assert make_shards(tmp_path / "src", tmp_path / "out", size=32, max_bad=0.25).splits["train"].quarantined == 10


def test_a_source_without_one_usable_image_is_no_data_set(tmp_path):
    (tmp_path / "src/a").mkdir(parents=True)
    (tmp_path / "src/a/x.JPEG").write_bytes(b"no image")

    with pytest.raises(DataError, match="none of the 1 images is usable"):
        make_shards(tmp_path / "src", tmp_path / "out", size=32, max_bad=1)
    assert "no image" in (tmp_path / "out/quarantine.jsonl").read_text()
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize(("images_", "expected"), [(1, 1), (64, 1), (128, 2), (5000, 16), (50_000, 16), (1_281_167, 313)])
def test_small_splits_get_shards_for_several_workers_large_ones_full_shards(images_, expected):
    assert shard_count(images_, ShardConfig()) == expected


@pytest.mark.process
def test_neighbouring_records_are_of_all_classes(tmp_path):
    manifest = make_shards(make_images(tmp_path / "src", {"a": 100, "b": 100}), tmp_path / "out", size=8)
    labels = Records(manifest, "train").labels(np.arange(200))

    assert 60 < (labels[:-1] != labels[1:]).sum() < 140  # sorted, it would be 1


@pytest.mark.process
def test_kill_9_at_random_moments_then_one_run_gives_the_same_bytes(images, tmp_path):
    """Ten kills of the whole job, then one run to its end."""
    make_shards(images, tmp_path / "calm", size=64)
    arguments = [Path(sys.executable).parent / "alexprep", "shard", "--src", images, "--out", tmp_path / "killed", "--size", "64", "--workers", "2"]
    rng = random.Random(0)
    killed = 0
    while killed < 10:
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.3, 2.0))
            shutil.rmtree(tmp_path / "killed")  # it got to the end: begin anew
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    run = command(*["alexprep", *arguments[1:]])

    assert run.returncode == 0, run.stderr
    assert digests(tmp_path / "killed") == digests(tmp_path / "calm")


@pytest.mark.process
def test_workers_do_not_outlive_a_killed_job(images, tmp_path):
    arguments = [Path(sys.executable).parent / "alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--workers", "2"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while len(workers := workers_of(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    children = [*children_of(process.pid), *workers]
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.02)

    assert len(children) == 4  # the resource tracker, the server that workers are forked from, and two of them
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


@pytest.mark.process
def test_a_worker_that_dies_is_reported_and_the_job_continues(images, tmp_path):
    arguments = [Path(sys.executable).parent / "alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--size", "32", "--workers", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (workers := workers_of(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(workers[0], signal.SIGKILL)
    _, message = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "a worker process died" in message
    assert "Traceback" not in message
    assert command("alexprep", *arguments[1:]).returncode == 0


def test_two_jobs_on_one_folder_are_kept_apart(images, tmp_path):
    from alexprep.pipeline.storage.files import lock

    with lock(tmp_path), pytest.raises(DataError, match="being written by another process"):
        make_shards(images, tmp_path, size=32)


def test_a_folder_that_cannot_be_written_is_named(images, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(DataError, match="file"):
        make_shards(images, tmp_path / "file" / "out", size=32)


def test_the_statistics_count_the_pixels_that_readers_see(shards):
    manifest = read_manifest(shards / "jpeg")
    records = Records(manifest, "train")
    pixels = np.stack([decode_record(records.image(i)) for i in range(len(records))]).astype(np.float64)
    found = compute_stats(manifest)

    assert np.allclose(found.mean_image, pixels.mean(0), rtol=1e-6)
    assert np.allclose(found.colours.covariance, np.cov(pixels.reshape(-1, 3).T, bias=True), rtol=1e-9)


@pytest.mark.process
def test_real_photographs_become_records(real_images, tmp_path):
    """Fifty classes of ImageNet, grey and small ones among them."""
    for folder in sorted((real_images / "train").iterdir())[::10]:
        shutil.copytree(folder, tmp_path / "src" / folder.name)
    manifest = make_shards(tmp_path / "src", tmp_path / "out", workers=2)

    assert manifest.splits["train"].records == 50
    assert manifest.splits["train"].quarantined == 0


def test_parameters_that_older_data_sets_do_not_have_are_written_only_where_they_differ():
    """Else the plan of an older data set would be another one, and repair would refuse it."""
    assert ShardConfig().to_json() == {"size": 256, "encoding": "jpeg", "quality": 95, "records_per_shard": 4096}
    assert ShardConfig(**ShardConfig(subsampling="420").to_json()) == ShardConfig(subsampling="420")
    assert "subsampling" in ShardConfig(subsampling="420").to_json()


@pytest.mark.process
def test_records_with_colour_at_half_size_are_pillows_and_counted_as_they_are_read(images, tmp_path):
    run = command("alexprep", "shard", "--src", images, "--out", tmp_path / "half", "--size", 64, "--subsampling", "420")
    assert run.returncode == 0, run.stderr
    records, full = (
        Records(read_manifest(tmp_path / "half"), "train"),
        Records(make_shards(images, tmp_path / "raw", size=64, encoding="raw"), "train"),
    )
    for number in (0, 77, 129):
        expected = io.BytesIO()
        Image.fromarray(full.pixels(number)).save(expected, "JPEG", quality=95, subsampling=2)
        assert records.image(number).tobytes() == expected.getvalue()

    assert command("alexprep", "stats", tmp_path / "half", "--pca", "--verify").returncode == 0
    wrong = command("alexprep", "shard", "--src", images, "--out", tmp_path / "half", "--size", 64)
    assert (wrong.returncode, "holds another data set" in wrong.stderr) == (1, True)


@pytest.mark.process
def test_no_process_of_a_job_imports_pandas(images, tmp_path):
    """pyarrow would, wherever it is installed, for every list it is given: 0.1 s before the first shard."""
    code = (
        "import sys; from pathlib import Path; from alexprep.pipeline import ShardJob; from alexprep.pipeline.sources import find_source;"
        f"from alexprep.pipeline.preparation.shard_task import make_shard; Path({str(tmp_path)!r}).mkdir(exist_ok=True);"
        f"job = ShardJob(find_source({str(images)!r}), Path({str(tmp_path)!r}));"
        "[make_shard(job._task(*task)) for task in job._mine()]; print('pandas' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "False"
    assert list(tmp_path.glob("*.arrow"))
