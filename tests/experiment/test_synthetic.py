"""Noise instead of data."""

import pytest

from ..support.commands import called, command
from ..support.runs import rows, run

pytestmark = pytest.mark.process


def test_noise_from_memory_stands_for_imagenet(tmp_path):
    done = run("nowhere", tmp_path / "run", "--data", "synthetic", "--steps", 3, "--cpu-ranks", 2, by=command)
    start = rows(tmp_path / "run", "start")[0]

    assert (start["data"], start["classes"]) == ("--data synthetic", 1000)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3]
    assert done.stdout.strip() == str(tmp_path / "run")
    again = called("alextrain", "run", "--data", "synthetic", "--resume", "--steps", 5, "--out", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4, 5]
