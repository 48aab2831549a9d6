"""A hang is noticed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ...support.commands import children_of
from ...support.runs import EACH_STEP, SMALL, rows, wait_for

pytestmark = pytest.mark.process


def test_a_rank_that_hangs_is_noticed_and_every_other_one_shows_its_stacks(dozen, tmp_path):
    out, said = tmp_path / "run", tmp_path / "said"
    with said.open("w") as file:
        arguments = ["run", dozen, *SMALL, *EACH_STEP, "--set", "hang_seconds=3", "--epochs", 9, "--cpu-ranks", 2, "--out", out]
        process = subprocess.Popen([Path(sys.executable).parent / "alextrain", *map(str, arguments)], stderr=file, stdout=file)
    wait_for(lambda: len(rows(out)) >= 2, process)
    stopped = children_of(process.pid)[-1]
    os.kill(stopped, signal.SIGSTOP)
    try:
        wait_for(lambda: "Timeout" in said.read_text(), process)
    finally:
        os.kill(stopped, signal.SIGCONT)  # so that it can be ended
    process.wait(timeout=60)
    told = said.read_text()

    assert process.returncode == 1
    assert "Timeout (0:00:03)!" in told
    assert "most recent call first" in told
    assert "trainer.py" in told  # where it waits for the other
