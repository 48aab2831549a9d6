"""Signals that ask a run to stop."""

import os
import signal
import time

import pytest
from alexprep.experiment.checkpoint import load_checkpoint

from ...support.commands import children_of, command
from ...support.runs import SMALL, losses, rows, same_weights, started, wait_for

pytestmark = pytest.mark.process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_stops_after_the_step_with_a_checkpoint_and_the_code_for_requeue(dozen, undisturbed, tmp_path, number):
    out = tmp_path / "run"
    process = started("run", dozen, *SMALL, "--set", "log_steps=1", "--epochs", 5, "--out", out)
    wait_for(lambda: len(rows(out)) >= 3, process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    last = rows(out)[-1]["step"]

    assert process.returncode == 75, told
    assert f"stopped by {number.name} after step {last}, with a checkpoint" in told
    assert load_checkpoint(out)["step"] == last
    done = command("alextrain", "run", dozen, "--out", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(undisturbed)
    assert same_weights(out, undisturbed)


def test_a_signal_to_the_launcher_stops_all_ranks_alike_and_slurm_goes_on(dozen, tmp_path):
    """SLURM starts the same command again, with SLURM_RESTART_COUNT."""
    out = tmp_path / "run"
    arguments = ["run", dozen, *SMALL, "--set", "log_steps=1", "--epochs", 5, "--cpu-ranks", 2, "--out", out]
    process = started(*arguments)
    wait_for(lambda: len(rows(out)) >= 3, process)
    process.send_signal(signal.SIGUSR1)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, "Error" in told) == (75, False), told
    step = load_checkpoint(out)["step"]
    done = command("alextrain", *arguments, "--steps", step + 2, env={"SLURM_RESTART_COUNT": "1"})

    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in rows(out)] == list(range(1, step + 3))


@pytest.mark.parametrize("whom", ["one rank", "all processes"])
def test_a_signal_to_one_rank_or_to_all_processes_stops_all_alike(dozen, tmp_path, whom):
    """The whole group at once, as systemd does it: the ranks get it twice, once from the launcher. One rank alone: the others agree."""
    out = tmp_path / "run"
    arguments = ["run", dozen, *SMALL, "--set", "log_steps=1", "--epochs", 5, "--cpu-ranks", 2, "--out", out]
    process = started(*arguments, start_new_session=True)
    wait_for(lambda: len(rows(out)) >= 3, process)
    if whom == "one rank":
        os.kill(children_of(process.pid)[-1], signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGTERM)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)

    assert process.returncode == 75, told
    assert load_checkpoint(out)["step"] == rows(out)[-1]["step"]
    assert not list(out.glob(".*.partial"))


@pytest.mark.parametrize("phase", ["start", "end"])
def test_a_signal_before_the_first_step_or_after_the_last_ends_with_the_code_for_requeue(dozen, tmp_path, phase):
    """There is nothing to lose: while the network is built, and while ten views are evaluated."""
    out = tmp_path / "run"
    arguments = [*SMALL[2:], "--width", 0.5] if phase == "start" else SMALL
    process = started("run", dozen, *arguments, "--set", "log_steps=1", "--steps", 2, "--set", "eval_batch_size=1", "--out", out)
    if phase == "start":
        wait_for((out / "config.toml").exists, process)
    else:
        wait_for(lambda: (out / "last.pt").exists() and len(rows(out)) == 2, process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)

    assert process.returncode in ((75,) if phase == "start" else (75, 0)), told  # the end may have come first
    assert "Traceback" not in told
    assert command("alextrain", "run", dozen, "--out", out, "--resume").returncode == 0


def test_a_stop_that_was_asked_for_is_no_failure_to_be_tried_again(dozen, tmp_path):
    out = tmp_path / "run"
    arguments = ["--set", "log_steps=1", "--epochs", 90, "--cpu-ranks", 2, "--max-restarts", 2]
    process = started("run", dozen, *SMALL, *arguments, "--out", out)
    wait_for(lambda: len(rows(out)) >= 3, process)
    for rank in children_of(process.pid):
        os.kill(rank, signal.SIGUSR1)
    _, told = process.communicate(timeout=90)

    assert process.returncode == 75, told
    assert len(rows(out, "start")) == 1
