"""Ray and Dask make the same bytes as processes of this machine; each with a real local cluster."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ...support.commands import command
from ...support.faults import snapshot

pytestmark = pytest.mark.process

KILLER = """
import os, pathlib, signal
import cv2
real, mark = cv2.resize, pathlib.Path({mark!r})
def resize(image, *arguments, **options):
    if mark.exists():
        try:
            mark.unlink()
        except FileNotFoundError:
            pass
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    return real(image, *arguments, **options)
cv2.resize = resize
"""


@pytest.fixture(scope="module")
def calm(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("calm") / "out"
    assert command("alexprep", "shard", "--src", images, "--out", out, "--size", "96").returncode == 0
    return snapshot(out)


@pytest.mark.parametrize("engine", ["ray", "dask"])
def test_a_cluster_with_a_worker_killed_in_mid_shard_makes_the_same_bytes(images, calm, tmp_path, engine):
    """The first image that any worker enlarges kills it; the task is tried again elsewhere."""
    mark = tmp_path / "mark"
    mark.touch()
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(KILLER.format(mark=str(mark)))
    arguments = ["--src", images, "--out", tmp_path / "out", "--size", "96", "--engine", engine, "--workers", "2", "--json"]
    run = command("alexprep", "shard", *arguments, env={"PYTHONPATH": str(tmp_path / "site")})

    assert run.returncode == 0, run.stderr
    assert not mark.exists()
    assert json.loads(run.stdout)["splits"]["train"]["records"] == 130
    assert snapshot(tmp_path / "out") == calm


def test_nothing_phones_home(images, tmp_path):
    """Ray's usage statistics are off before it is imported."""
    code = """
import os, sys
from alexprep.pipeline.preparation.executors import RayEngine
engine = RayEngine(1)
from ray._common.usage import usage_lib
print(usage_lib.usage_stats_enabled(), file=sys.stderr)
engine.close()
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)

    assert "False" in run.stderr.split(), run.stderr


def test_a_running_dask_cluster_is_joined_and_left_running(images, calm, tmp_path):
    code = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    print(cluster.scheduler_address, flush=True)
    sys.stdin.readline()
    print(len(cluster.scheduler.workers), flush=True)
    cluster.close()
"""
    (tmp_path / "cluster.py").write_text(code)
    cluster = subprocess.Popen([sys.executable, tmp_path / "cluster.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    address = cluster.stdout.readline().strip()
    arguments = ["--src", images, "--out", tmp_path / "out", "--size", "96", "--engine", "dask", "--cluster", address]
    run = command("alexprep", "shard", *arguments)
    said, _ = cluster.communicate("end\n", timeout=60)

    assert run.returncode == 0, run.stderr
    assert snapshot(tmp_path / "out") == calm
    assert said.split() == ["1"]


def test_a_cluster_without_an_engine_is_refused(images, tmp_path):
    run = command("alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--cluster", "x:1")

    assert run.returncode == 2
    assert "--cluster needs --engine ray or --engine dask" in run.stderr


def test_no_process_of_a_cluster_is_left(images, tmp_path):
    before = set(os.listdir("/proc"))
    assert (
        command("alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--size", "16", "--engine", "ray", "--workers", "1").returncode == 0
    )
    deadline = time.monotonic() + 20
    while (left := names(before)) and time.monotonic() < deadline:
        time.sleep(0.2)

    assert left == []


def names(before):
    found = []
    for pid in set(os.listdir("/proc")) - before:
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return [line for line in found if "ray" in line and "pytest" not in line]
