"""Whatever happens while shards are made, what is there is whole, nothing is lost, and the same command finishes the job."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from alexprep.pipeline.preparation.append import AppendJob
from alexprep.pipeline.preparation.verify import Verification
from alexprep.pipeline.shards.manifest import read_manifest
from alexprep.pipeline.sources import find_source

from ...support import faults
from ...support.commands import command
from ...support.images import jpeg, make_images, picture
from ...support.paths import ROOT

pytestmark = pytest.mark.process

SITE = """
import os, signal, sys
import cv2
real = cv2.resize
def resize(image, *arguments, **options):
    if image.shape[:2] == (33, 77):
        os.kill(os.getpid(), signal.{signal})
    return real(image, *arguments, **options)
cv2.resize = resize
"""


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A folder in memory, where an fsync costs nothing: the faults are in what is written, not in the disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path_factory.mktemp("faults")
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def states(memory):
    """Sources, and the folder before and after each job."""
    root = memory / "states"
    make_images(root / "src", {"train/a": 12, "train/b": 12, "val/a": 2})
    (root / "src/train/a/bad.JPEG").write_bytes(b"no image")
    make_images(root / "more", {"train/b": 5})
    for path in sorted((root / "more/train/b").iterdir()):
        path.rename(path.with_name(f"new{path.name}"))
    (root / "empty").mkdir()
    job = faults.ShardJob(find_source(root / "src"), root / "whole", faults.CONFIG, max_bad=0.1, engine=faults.Inline)
    list(job.run())
    shutil.copytree(root / "whole", root / "longer")
    list(AppendJob(find_source(root / "more"), root / "longer").run())
    shutil.copytree(root / "whole", root / "hurt")
    names = sorted(path.name for path in (root / "hurt").glob("train-*.arrow"))
    data = bytearray((root / "hurt" / names[0]).read_bytes())
    data[len(data) // 2] ^= 4
    (root / "hurt" / names[0]).write_bytes(data)
    (root / "hurt" / names[1]).unlink()
    (root / "hurt" / f"{names[2]}.json").write_text("{")
    return root


@pytest.mark.parametrize(
    ("action", "kind", "unit", "points"),
    [
        ("shard", "kill", "bytes", 60),
        ("shard", "kill", "calls", 60),
        ("shard", "full", "bytes", 30),
        ("shard", "full", "calls", 20),
        ("append", "kill", "bytes", 25),
        ("append", "kill", "calls", 25),
        ("repair", "kill", "bytes", 20),
        ("repair", "kill", "calls", 20),
    ],
)
def test_a_fault_at_any_byte_or_call_leaves_old_files_or_new_ones_and_one_run_finishes(states, memory, action, kind, unit, points):
    """Some hundreds of seeded faults in all: each is followed by up to two more while the job continues, then by a run to its end."""
    before, after, src = {"shard": ("empty", "whole", "src"), "append": ("whole", "longer", "more"), "repair": ("hurt", "whole", "src")}[action]
    place = memory / f"{action}-{kind}-{unit}"
    shutil.copytree(states / before, place / "before")
    arguments = [action, kind, unit, states / src, place / "before", states / after, points, 1]
    run = subprocess.run([sys.executable, "-m", "tests.support.faults", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)

    assert run.returncode == 0, run.stdout + run.stderr
    assert int(run.stdout) > points / 2


def test_a_full_disk_is_named_and_more_room_finishes_the_job(images, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    arguments = ["alexprep", "shard", "--src", images, "--out", disk / "out", "--size", "64", "--workers", "2"]
    try:
        run = command(*arguments)
        assert run.returncode == 1
        assert "No space left on device" in run.stderr
        assert "run the same command again" in run.stderr
        assert "Traceback" not in run.stderr
        assert not list((disk / "out").glob(".*.partial"))
        for sidecar in (disk / "out").glob("*.arrow.json"):
            assert sidecar.with_name(json.loads(sidecar.read_text())["file"]).stat().st_size == json.loads(sidecar.read_text())["bytes"]
        subprocess.run(["mount", "-o", "remount,size=30m", disk], check=True)
        assert command(*arguments).returncode == 0
        assert command("alexprep", "verify", disk / "out", "--deep").returncode == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def crashing(tmp_path, signal_name):
    """A source with an image that kills whoever scales it, and the environment in which it does."""
    make_images(tmp_path / "src", {"train/a": 40, "train/b": 40})
    (tmp_path / "src/train/a/evil.JPEG").write_bytes(jpeg(picture(5, 33, 77)))
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE.format(signal=signal_name))
    return {"PYTHONPATH": str(tmp_path / "site")}


def test_an_image_that_crashes_the_decoder_is_found_and_quarantined_in_the_same_run(tmp_path):
    env = crashing(tmp_path, "SIGSEGV")
    arguments = ["--src", tmp_path / "src", "--size", "64", "--workers", "2", "--max-bad", "0.1"]
    run = command("alexprep", "shard", *arguments, "--out", tmp_path / "out", env=env)

    assert run.returncode == 0, run.stderr
    (line,) = (tmp_path / "out/quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {"split": "train", "key": "train/a/evil.JPEG", "reason": "the decoder crashed on it (SIGSEGV)"}
    assert command("alexprep", "verify", tmp_path / "out", "--deep").returncode == 0
    assert read_manifest(tmp_path / "out").splits["train"].records == 80


def test_a_worker_killed_for_memory_is_said_and_the_same_command_finishes_the_job(tmp_path):
    """The kernel's SIGKILL is not the image's fault: it must not be quarantined for it."""
    env = crashing(tmp_path, "SIGKILL")
    arguments = ["alexprep", "shard", "--src", tmp_path / "src", "--out", tmp_path / "out", "--size", "64", "--workers", "2"]
    run = command(*arguments, env=env)

    assert run.returncode == 1
    assert "out of memory" in run.stderr
    assert "fewer --workers" in run.stderr
    assert "Traceback" not in run.stderr
    assert command(*arguments).returncode == 0
    assert read_manifest(tmp_path / "out").splits["train"].records == 81


def test_a_source_that_vanishes_halfway_stops_the_job_and_loses_nothing(images, tmp_path):
    shutil.copytree(images, tmp_path / "src")
    out = tmp_path / "out"
    arguments = [Path(sys.executable).parent / "alexprep", "shard", "--src", tmp_path / "src", "--out", out, "--size", "256", "--workers", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("*.arrow.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    (tmp_path / "src").rename(tmp_path / "gone")
    _, message = process.communicate(timeout=60)

    assert process.returncode == 1, message
    assert "Finished shards are kept" in message
    assert not (out / "manifest.json").exists()
    (tmp_path / "gone").rename(tmp_path / "src")
    assert command("alexprep", *arguments[1:]).returncode == 0
    assert read_manifest(out).splits["train"].records == 130


def test_files_that_changed_while_the_job_lay_still_are_noticed(images, tmp_path):
    shutil.copytree(images, tmp_path / "src")
    arguments = ["alexprep", "shard", "--src", tmp_path / "src", "--out", tmp_path / "out", "--size", "16"]
    assert command(*arguments).returncode == 0
    (tmp_path / "out/manifest.json").unlink()
    with (tmp_path / "src/train/ant/000.JPEG").open("ab") as file:
        file.write(b"more")
    run = command(*arguments)

    assert run.returncode == 1
    assert "begun from other files of the same names" in run.stderr


def test_two_producers_on_one_folder_do_not_disturb_each_other(images, tmp_path):
    """Started together, one does the job and the other is told to wait; or each does its turn. The bytes are the same."""
    arguments = [Path(sys.executable).parent / "alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--size", "64", "--workers", "1"]
    processes = [subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [process.communicate(timeout=120)[1] for process in processes]
    codes = sorted(process.returncode for process in processes)

    assert codes in ([0, 0], [0, 1])
    assert codes == [0, 0] or any("is being written by another process" in message for message in messages)
    check = Verification(read_manifest(tmp_path / "out"), deep=False)
    list(check.run())
    assert check.problems == []


def test_parts_made_at_once_and_killed_make_the_same_data_set(images, tmp_path):
    shard = ["alexprep", "shard", "--src", images, "--size", "64", "--workers", "1"]
    assert command(*shard, "--out", tmp_path / "calm").returncode == 0
    program = Path(sys.executable).parent / "alexprep"
    parts = [subprocess.Popen([program, *shard[1:], "--out", tmp_path / "out", "--part", f"{i}/3"], stderr=subprocess.DEVNULL) for i in (1, 2, 3)]
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/.lock-2-of-3").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    parts[1].send_signal(signal.SIGKILL)
    codes = [process.wait(timeout=120) for process in parts]
    unfinished = len(list((tmp_path / "out").glob("*.arrow.json"))) < 3  # a slow kill may find its shard made
    early = command("alexprep", "finalize", tmp_path / "out")

    assert codes[0] == codes[2] == 0
    assert command(*shard, "--out", tmp_path / "out", "--part", "2/3").returncode == 0
    assert early.returncode == unfinished
    assert ("are not made yet" in early.stderr) == unfinished
    run = command("alexprep", "finalize", tmp_path / "out", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["splits"]["train"]["records"] == 130
    assert faults.snapshot(tmp_path / "out") == faults.snapshot(tmp_path / "calm")


@pytest.mark.parametrize("part", ["0/3", "4/3", "x", "1/0", "-1/2"])
def test_a_part_that_is_none_is_refused(images, tmp_path, part):
    run = command("alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--part", part)

    assert run.returncode == 2
    assert "--part" in run.stderr


def test_many_tiny_files_are_listed_in_little_memory(tmp_path):
    """Forty thousand; memory grows by columns, not by objects: well under a kilobyte an image."""
    for folder in range(20):
        (tmp_path / f"src/{folder:02}").mkdir(parents=True)
        base = os.open(tmp_path / f"src/{folder:02}", os.O_RDONLY)
        for number in range(2_000):
            os.close(os.open(f"{number}.JPEG", os.O_CREAT | os.O_WRONLY, dir_fd=base))
        os.close(base)
    code = f"""
import resource
from alexprep.pipeline.preparation.plan import make_plan
from alexprep.pipeline.config import ShardConfig
from alexprep.pipeline.sources import find_source
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = find_source({str(tmp_path / "src")!r})
make_plan(source, ShardConfig())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(run.stdout) * 1024 / 40_000 < 2_000
