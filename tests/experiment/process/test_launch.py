"""Ranks that a launcher starts."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alexprep.experiment.checkpoint import load_checkpoint

from ...support.commands import children_of, command
from ...support.runs import EACH_STEP, SMALL, losses, rows, same_weights, started, wait_for

pytestmark = pytest.mark.process


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_machines_train_as_one(data, plain, tmp_path):
    """The documented lines of torchrun, one launcher a machine, over loopback."""
    port, out = free_port(), tmp_path / "run"
    launchers = []
    for node in range(2):
        program = [Path(sys.executable).parent / "torchrun", "--nnodes", 2, "--nproc-per-node", 1, "--node-rank", node]
        program += ["--master-addr", "127.0.0.1", "--master-port", port, "--no-python", Path(sys.executable).parent / "alextrain"]
        program += ["run", data, *SMALL, "--epochs", 1, "--parallel", "data", "--out", out]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        launchers.append(subprocess.Popen(list(map(str, program)), env=environment, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL))
    told = [launcher.communicate(timeout=200)[1] for launcher in launchers]

    assert [launcher.returncode for launcher in launchers] == [0, 0], told
    assert list(losses(out).values()) == pytest.approx(list(losses(plain).values()), rel=1e-3)


def test_the_launcher_starts_the_ranks_again_after_one_was_killed(dozen, tmp_path):
    arguments = ["run", dozen, *SMALL, *EACH_STEP, "--epochs", 1, "--cpu-ranks", 2, "--parallel", "data"]
    assert command("alextrain", *arguments, "--out", tmp_path / "calm").returncode == 0
    out = tmp_path / "run"
    process = started(*arguments, "--max-restarts", 2, "--out", out)
    wait_for(lambda: len(rows(out)) >= 4, process)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=120)

    assert process.returncode == 0, told
    assert losses(out) == losses(tmp_path / "calm")
    assert same_weights(out, tmp_path / "calm")


def test_ranks_whose_launcher_is_killed_stop_with_a_checkpoint(dozen, tmp_path):
    out = tmp_path / "run"
    process = started("run", dozen, *SMALL, "--set", "log_steps=1", "--epochs", 90, "--cpu-ranks", 2, "--out", out)
    wait_for(lambda: len(rows(out)) >= 3, process)
    ranks = children_of(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    assert load_checkpoint(out)["step"] == rows(out)[-1]["step"]
