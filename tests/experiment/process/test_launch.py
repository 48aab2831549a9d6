"""Ranks that a launcher starts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ...support.runs import SMALL, losses


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
