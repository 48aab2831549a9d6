"""A run on several ranks is the run on one."""

import json
import os
import sys

import pytest
import torch

from ..support.commands import TINY, command
from ..support.runs import SMALL, losses, rows

pytestmark = pytest.mark.process


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


def test_eval_counts_every_image_once_on_three_ranks(finished, few):
    folder, _ = finished
    one, three = (
        json.loads(command("alextrain", "eval", "--checkpoint", folder / "best.pt", "--data", few, *ranks, "--json").stdout)
        for ranks in ((), ("--cpu-ranks", "3"))
    )

    assert three["count"] == one["count"] == 20
    assert three["top1_error"] == one["top1_error"]
    assert three["loss"] == pytest.approx(one["loss"], rel=1e-5)


@pytest.mark.parametrize("preset", ["source", "paper"])
def test_two_ranks_train_to_the_weights_of_one(few, tmp_path, preset):
    """20 steps, 2 ranks of 6 against 1 of 12, dropout and all. They differ by the order of float32 sums alone: 2e-5 is allowed on
    weights of which the changes are a thousand times larger."""
    weights = []
    for ranks in ("1", "2"):
        out = tmp_path / ranks
        run = command("alextrain", "run", few, "--out", out, "--steps", "20", "--preset", preset, *TINY, "--cpu-ranks", ranks)
        assert run.returncode == 0, run.stderr
        weights.append(torch.load(out / "last.pt", weights_only=True)["model"])
    one, two = weights
    from alexprep.model.networks.alexnet import AlexNet

    start = AlexNet(preset, classes=2, width=0.05, crop=64).state_dict()
    moved = max((one[name] - start[name]).abs().max().item() for name in one)

    assert moved > 0.02
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 2e-5
    losses = [[row["loss"] for row in rows(tmp_path / ranks, "step")] for ranks in ("1", "2")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_torchrun_itself_can_start_the_ranks(few, tmp_path):
    run = command(
        "torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "alextrain",
        "run", few, "--out", tmp_path / "run", "--steps", "3", *TINY, env={"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"},
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    assert rows(tmp_path / "run", "start")[0]["ranks"] == 2


def test_a_rank_s_failure_is_the_command_s(few, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").touch()
    run = command("alextrain", "run", few, "--out", tmp_path / "run", *TINY, "--cpu-ranks", "2", timeout=60)

    assert run.returncode == 1
    assert "already holds a run" in run.stderr
    assert "Traceback" not in run.stderr


def test_gpus_on_a_machine_without_one_is_a_clear_line_and_one_cpu_process(few, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = command("alextrain", "run", few, "--out", tmp_path / "run", "--steps", "2", *TINY, "--gpus", "2")

    assert run.returncode == 0, run.stderr
    assert "there is none on this machine. Going on in one process on the CPU" in run.stderr
    assert rows(tmp_path / "run", "start")[0]["ranks"] == 1
