"""What a run writes, and what it does when the disk is full."""

import resource

import pytest
import torch

from ..support.runs import EACH_STEP, SMALL, rows, started


@pytest.mark.process
def test_a_disk_too_small_for_a_checkpoint_keeps_the_run_going_and_says_so(data, tmp_path):
    """Files may not grow beyond what two steps' logs need; the last checkpoint cannot be written either, so that the run fails in the end."""
    out = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    process = started("run", data, *SMALL, *EACH_STEP, "--steps", 4, "--out", out, preexec_fn=limit)
    _, told = process.communicate(timeout=120)

    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4]
    assert process.returncode == 1
    assert told.count("warning: cannot write") >= 3
    assert "last.pt: File too large; the previous checkpoint is kept, --resume continues from it" in told
    assert not list(out.glob("*.pt")) + list(out.glob(".*.partial"))


@pytest.mark.process
def test_a_disk_too_full_for_a_row_of_the_log_is_a_warning(data, tmp_path):
    out = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, 2_500))
    process = started("run", data, *SMALL, "--set", "log_steps=1", "--steps", 12, "--out", out, preexec_fn=limit)
    _, told = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "warning: a row of step" in told
    assert "Traceback" not in told


def test_a_run_leaves_checkpoints_metrics_and_a_report(finished):
    folder, run = finished
    steps = rows(folder, "step")

    assert [row["step"] for row in steps] == list(range(1, 31))
    assert {"event", "step", "epoch", "loss", "error", "lr", "images_per_s", "wait_share", "batches_ready"} == set(steps[0])
    assert [row["epoch"] for row in rows(folder, "eval")] == [1, 2, 3]
    assert [(row["views"], row["count"]) for row in rows(folder, "result")] == [(10, 20), (1, 20)]
    assert "ten views: top-1 error" in run.stdout
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["step"] == 30
    assert state["classes"] == ["ant", "bee"]
    assert (folder / "best.pt").is_file()
