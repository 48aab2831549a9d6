"""Damage is found, and what cannot be is a problem and no traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ...support.commands import children_of, command, workers_of
from ...support.shards import problems, unbound


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_what_is_as_it_was_written_has_no_problem(shards, encoding):
    assert problems(shards / encoding, deep=True) == []


@pytest.mark.process
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


@pytest.mark.process
def test_statistics_that_do_not_belong_are_found(copy):
    assert command("alexprep", "stats", copy, "--pca").returncode == 0
    assert problems(copy) == []
    path = copy / "stats.json"
    value = json.loads(path.read_text())
    value["mean"][0] += 1e-9
    path.write_text(json.dumps(value))

    assert [problem.file for problem in problems(copy)] == ["stats.json"]


@pytest.mark.process
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


@pytest.mark.process
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
