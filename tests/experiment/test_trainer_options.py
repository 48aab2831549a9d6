"""Settings of the trainer: batches in parts, half precision, compiled, repeated, averaged, ended."""

import json
import shutil

import pytest
import torch
from alexprep.experiment.checkpoint import load_checkpoint

from ..support.commands import called, command
from ..support.runs import losses, rows, run

pytestmark = pytest.mark.process


def test_a_batch_in_parts_is_the_same_step(data, plain, tmp_path):
    """Three parts of sixteen images, the last smaller; on two ranks gradients are still averaged once."""
    run(data, tmp_path / "one", "--set", "accumulate=3")
    run(data, tmp_path / "two", "--set", "accumulate=3", "--cpu-ranks", 2, "--parallel", "data", by=command)

    for out in (tmp_path / "one", tmp_path / "two"):
        assert list(losses(out).values()) == pytest.approx(list(losses(plain).values()), rel=1e-4)


def test_half_precision_trains_nearly_the_same(data, plain, tmp_path):
    run(data, tmp_path / "run", "--precision", "bfloat16")
    ours, theirs = losses(tmp_path / "run"), losses(plain)

    assert ours != theirs
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=0.02)
    assert all(value.dtype == torch.float32 for value in load_checkpoint(tmp_path / "run")["model"].values())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_the_same(data, plain, tmp_path):
    run(data, tmp_path / "run", "--compile", by=command)

    assert list(losses(tmp_path / "run").values()) == pytest.approx(list(losses(plain).values()), rel=1e-3)


def test_half_gradients_between_ranks_train_nearly_the_same(data, plain, tmp_path):
    run(data, tmp_path / "run", "--set", "gradients=bfloat16", "--cpu-ranks", 2, "--parallel", "data", by=command)

    assert list(losses(tmp_path / "run").values()) == pytest.approx(list(losses(plain).values()), rel=0.02)


def test_the_mean_of_the_weights_is_what_is_evaluated(data, tmp_path):
    run(data, tmp_path / "run", "--set", "ema=0.5")
    state = load_checkpoint(tmp_path / "run")
    evaluated = called("alextrain", "eval", "--checkpoint", tmp_path / "run", "--data", data, "--crops", 1, "--json")

    assert not torch.equal(state["averages"]["fc8.weight"], state["model"]["fc8.weight"])
    assert json.loads(evaluated.stdout)["loss"] == pytest.approx(rows(tmp_path / "run", "eval")[-1]["loss"], rel=1e-12)


def test_deterministic_runs_are_the_same_twice(data, tmp_path):
    for name in ("a", "b"):
        run(data, tmp_path / name, "--deterministic", "--steps", 3, by=command)

    assert losses(tmp_path / "a") == losses(tmp_path / "b")


def test_the_weight_decay_is_the_setting_s(data, plain, tmp_path):
    """It pulls from the second step on: the first loss is that of the same initial weights."""
    run(data, tmp_path / "none", "--set", "weight_decay=0")
    with_, without = losses(plain), losses(tmp_path / "none")
    assert with_[1] == without[1]
    assert with_ != without


def test_a_run_ends_with_the_epoch_that_is_good_enough(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", 5, "--set", "until=0.999")
    assert [row["epoch"] for row in rows(tmp_path / "run", "eval")] == [1]
    assert rows(tmp_path / "run", "eval")[0]["train_error"] <= 0.999
    done = called("alextrain", "run", data, "--out", tmp_path / "run", "--resume", "--set", "until=0")
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in rows(tmp_path / "run", "eval")] == [1, 2, 3, 4, 5]
