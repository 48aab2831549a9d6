"""A run on several ranks is the run on one."""

import pytest

from ..support.commands import command
from ..support.runs import SMALL, losses, rows


def test_a_run_goes_on_in_another_layout_with_other_ranks(dozen, undisturbed, tmp_path):
    """Towers on two ranks, hybrid on four, one process: the losses of one process throughout, to float32 rounding."""
    out = tmp_path / "run"
    begun = [*SMALL, "--set", "log_steps=1", "--set", "width=0.0625", "--epochs", 1]
    whole = command("alextrain", "run", dozen, *begun, "--out", tmp_path / "whole")
    parts = [
        command("alextrain", "run", dozen, *begun, "--cpu-ranks", 2, "--parallel", "towers", "--steps", 4, "--out", out),
        command("alextrain", "run", dozen, "--resume", "--cpu-ranks", 4, "--parallel", "hybrid", "--steps", 8, "--out", out),
        command("alextrain", "run", dozen, "--resume", "--parallel", "data", "--steps", 12, "--out", out),
    ]

    assert [done.returncode for done in (whole, *parts)] == [0] * 4, [done.stderr for done in parts]
    assert [row["parallel"] for row in rows(out, "start")] == ["towers", "hybrid", "data"]
    assert list(losses(out).values()) == pytest.approx(list(losses(tmp_path / "whole").values()), rel=1e-3)
