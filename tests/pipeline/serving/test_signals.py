"""Signals are heard at any rate, by one thread."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ...support.serving import secret

pytestmark = pytest.mark.process


@pytest.mark.parametrize(("tokens", "signals", "gap"), [(1, 100, 0.0), (2000, 2, 0.002), (20, 30, 0.0003)])
def test_a_server_survives_any_rate_of_sighup(folder, tmp_path, started, tokens, signals, gap):
    path = secret(tmp_path / "tokens", "".join(f"{number:032x}\n" for number in range(tokens)))
    process, _ = started(folder, "--tokens", path, "--log-level", "error")
    for _ in range(signals):
        process.send_signal(signal.SIGHUP)
        time.sleep(gap)
    time.sleep(0.3)

    assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)  # right behind it: drained, not killed
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_every_other_thread_of_a_server_has_the_signals_blocked(folder, started):
    process, _ = started(folder)
    threads = [
        path for path in Path(f"/proc/{process.pid}/task").glob("*/status") if path.parent.name != str(process.pid)
    ]  # the first waits for them
    masks = [re.search(r"SigBlk:\s*([0-9a-f]+)", path.read_text())[1] for path in threads]

    assert len(masks) > 2
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        assert all(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def test_sighup_during_the_start_of_a_server_is_no_end_of_it(folder):
    command = [Path(sys.executable).parent / "alexprep", "serve", folder, "--bind", "127.0.0.1:0", "--http", "", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not blocked(process.pid):
        time.sleep(0.001)
    while not ready(process) and time.monotonic() < deadline + 40:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.01)

    assert "location" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def blocked(pid):
    return int(re.search(r"SigBlk:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())[1], 16) & 1 << (signal.SIGHUP - 1)


def ready(process):
    import select

    return bool(select.select([process.stdout], [], [], 0)[0])
