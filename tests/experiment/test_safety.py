"""Never a lost step: kills, signals, hangs, full disks and numbers that are none, in real runs of the command."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from alexprep.experiment.checkpoint import Saver, load_checkpoint
from alexprep.experiment.run_folder import RunFolder
from alexprep.pipeline import DataError

from ..support.commands import called, children_of, command
from ..support.shards import training_shards

SMALL = ["--width", 0.05, "--crop", 64, "--batch-size", 16, "--seed", 4]
EACH_STEP = ["--set", "checkpoint_steps=1", "--set", "log_steps=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve steps an epoch."""
    return training_shards(tmp_path_factory.mktemp("safety"), 100)


def started(*arguments, **options):
    """A command that is waited for later."""
    program = [Path(sys.executable).parent / "alextrain", *map(str, arguments)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def rows(out, event="step"):
    path = out / "metrics.jsonl"
    return [row for row in map(json.loads, path.read_text().splitlines()) if row["event"] == event] if path.exists() else []


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def losses(out):
    return {row["step"]: row["loss"] for row in rows(out)}


def weights(out):
    return load_checkpoint(out)["model"]


def same_weights(a, b):
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = command("alextrain", "run", data, *SMALL, *EACH_STEP, "--epochs", 5, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_twenty_kills_at_random_steps_change_no_loss_and_no_weight(data, undisturbed, tmp_path):
    out, draw, kills = tmp_path / "run", random.Random(8), 0
    while kills < 20:
        resume = ["--resume"] if (out / "config.toml").exists() else [*SMALL, *EACH_STEP, "--epochs", 5]
        process = started("run", data, "--out", out, *resume)
        before = len(rows(out))
        target = min(before + draw.randrange(1, 5), 58)
        wait_for(lambda target=target: len(rows(out)) >= target, process)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        kills += 1
    done = command("alextrain", "run", data, "--out", out, "--resume")

    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(undisturbed)
    assert same_weights(out, undisturbed)
    assert [row["top1_error"] for row in rows(out, "eval")] == [row["top1_error"] for row in rows(undisturbed, "eval")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda number: number.name)
def test_a_signal_stops_after_the_step_with_a_checkpoint_and_the_code_for_requeue(data, undisturbed, tmp_path, number):
    out = tmp_path / "run"
    process = started("run", data, *SMALL, "--set", "log_steps=1", "--epochs", 5, "--out", out)
    wait_for(lambda: len(rows(out)) >= 3, process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    last = rows(out)[-1]["step"]

    assert process.returncode == 75, told
    assert f"stopped by {number.name} after step {last}, with a checkpoint" in told
    assert load_checkpoint(out)["step"] == last
    done = command("alextrain", "run", data, "--out", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(undisturbed)
    assert same_weights(out, undisturbed)


def test_a_signal_to_the_launcher_stops_all_ranks_alike_and_slurm_goes_on(data, tmp_path):
    """SLURM starts the same command again, with SLURM_RESTART_COUNT."""
    out = tmp_path / "run"
    arguments = ["run", data, *SMALL, "--set", "log_steps=1", "--epochs", 5, "--cpu-ranks", 2, "--out", out]
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
def test_a_signal_to_one_rank_or_to_all_processes_stops_all_alike(data, tmp_path, whom):
    """The whole group at once, as systemd does it: the ranks get it twice, once from the launcher. One rank alone: the others agree."""
    out = tmp_path / "run"
    arguments = ["run", data, *SMALL, "--set", "log_steps=1", "--epochs", 5, "--cpu-ranks", 2, "--out", out]
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


def test_the_launcher_starts_the_ranks_again_after_one_was_killed(data, tmp_path):
    arguments = ["run", data, *SMALL, *EACH_STEP, "--epochs", 1, "--cpu-ranks", 2, "--parallel", "data"]
    assert command("alextrain", *arguments, "--out", tmp_path / "calm").returncode == 0
    out = tmp_path / "run"
    process = started(*arguments, "--max-restarts", 2, "--out", out)
    wait_for(lambda: len(rows(out)) >= 4, process)
    os.kill(children_of(process.pid)[-1], signal.SIGKILL)
    _, told = process.communicate(timeout=120)

    assert process.returncode == 0, told
    assert losses(out) == losses(tmp_path / "calm")
    assert same_weights(out, tmp_path / "calm")


def test_a_rank_that_hangs_is_noticed_and_every_other_one_shows_its_stacks(data, tmp_path):
    out, said = tmp_path / "run", tmp_path / "said"
    with said.open("w") as file:
        arguments = ["run", data, *SMALL, *EACH_STEP, "--set", "hang_seconds=3", "--epochs", 9, "--cpu-ranks", 2, "--out", out]
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


@pytest.mark.parametrize("phase", ["start", "end"])
def test_a_signal_before_the_first_step_or_after_the_last_ends_with_the_code_for_requeue(data, tmp_path, phase):
    """There is nothing to lose: while the network is built, and while ten views are evaluated."""
    out = tmp_path / "run"
    arguments = [*SMALL[2:], "--width", 0.5] if phase == "start" else SMALL
    process = started("run", data, *arguments, "--set", "log_steps=1", "--steps", 2, "--set", "eval_batch_size=1", "--out", out)
    if phase == "start":
        wait_for((out / "config.toml").exists, process)
    else:
        wait_for(lambda: (out / "last.pt").exists() and len(rows(out)) == 2, process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)

    assert process.returncode in ((75,) if phase == "start" else (75, 0)), told  # the end may have come first
    assert "Traceback" not in told
    assert command("alextrain", "run", data, "--out", out, "--resume").returncode == 0


def test_ranks_whose_launcher_is_killed_stop_with_a_checkpoint(data, tmp_path):
    out = tmp_path / "run"
    process = started("run", data, *SMALL, "--set", "log_steps=1", "--epochs", 90, "--cpu-ranks", 2, "--out", out)
    wait_for(lambda: len(rows(out)) >= 3, process)
    ranks = children_of(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    assert load_checkpoint(out)["step"] == rows(out)[-1]["step"]


def test_a_stop_that_was_asked_for_is_no_failure_to_be_tried_again(data, tmp_path):
    out = tmp_path / "run"
    arguments = ["--set", "log_steps=1", "--epochs", 90, "--cpu-ranks", 2, "--max-restarts", 2]
    process = started("run", data, *SMALL, *arguments, "--out", out)
    wait_for(lambda: len(rows(out)) >= 3, process)
    for rank in children_of(process.pid):
        os.kill(rank, signal.SIGUSR1)
    _, told = process.communicate(timeout=90)

    assert process.returncode == 75, told
    assert len(rows(out, "start")) == 1


def test_a_flipped_bit_in_a_checkpoint_is_noticed(data, undisturbed, tmp_path):
    whole = (undisturbed / "last.pt").read_bytes()
    path = tmp_path / "flipped.pt"
    path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    done = called("alextrain", "eval", "--checkpoint", path, "--data", data)

    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "flipped.pt is not a checkpoint of ours, or it is damaged: the checksum of its part" in done.stderr


def test_the_files_of_a_run_without_its_settings_are_not_written_over(data, tmp_path):
    (tmp_path / "last.pt").touch()
    done = called("alextrain", "run", data, *SMALL, "--out", tmp_path)

    assert (done.returncode, "holds a run's files, but no config.toml" in done.stderr) == (1, True)


def test_a_disk_too_small_for_a_checkpoint_keeps_the_run_going_and_says_so(data, tmp_path):
    """Files may not grow beyond what two steps' logs need; the last checkpoint cannot be written either, so that the run fails in the end."""
    out = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    process = started("run", data, *SMALL, *EACH_STEP, "--steps", 4, "--out", out, preexec_fn=limit)
    _, told = process.communicate(timeout=120)

    assert [row["step"] for row in rows(out)] == [1, 2, 3, 4]
    assert process.returncode == 1
    assert told.count("warning: cannot write") >= 3
    assert "last.pt: File too large; the one before it is kept, --resume continues from there" in told
    assert not list(out.glob("*.pt")) + list(out.glob(".*.partial"))


def test_a_disk_too_full_for_a_row_of_the_log_is_a_warning(data, tmp_path):
    out = tmp_path / "run"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_500, 2_500))
    process = started("run", data, *SMALL, "--set", "log_steps=1", "--steps", 12, "--out", out, preexec_fn=limit)
    _, told = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "warning: a row of step" in told
    assert "Traceback" not in told


def test_going_back_to_a_kept_checkpoint_leaves_the_others_as_they_were(tmp_path):
    """Copies, not links; and what came after the step that training went back to goes first."""
    folder = RunFolder(tmp_path)
    for step in (10, 20, 30):
        (tmp_path / "last.pt").write_bytes(b"%d" % step)
        folder.keep(step, 3)
    shutil.copyfile(tmp_path / "step-20.pt", tmp_path / "last.pt")
    assert (tmp_path / "step-30.pt").read_bytes() == b"30"
    folder.keep(25, 3)

    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-10.pt", "step-20.pt", "step-25.pt"]


def test_a_checkpoint_that_can_be_written_later_is_and_only_the_last_failure_counts():
    def fails():
        raise DataError("cannot write x: No space left on device")

    warnings, written = [], []
    saver = Saver(warnings.append)
    saver.submit(fails)
    saver.submit(lambda: written.append(1))
    saver.close()
    assert written == [1]
    assert warnings == ["cannot write x: No space left on device"]
    saver = Saver(warnings.append)
    saver.submit(fails)
    with pytest.raises(DataError, match="No space left"):
        saver.close()


def test_a_loss_that_is_no_number_leaves_the_state_before_it_and_its_batch(data, tmp_path):
    out = tmp_path / "run"
    done = called("alextrain", "run", data, *SMALL, "--lr", 1e30, "--out", out, "--set", "log_steps=1")
    found = re.search(r"the loss is (?:nan|inf) at step (\d+)", done.stderr)
    assert (done.returncode, found is None) == (1, False), done.stderr
    step = int(found[1]) - 1
    receipts = [json.loads(line) for line in (out / "diverged.jsonl").read_text().splitlines()]
    replayed = called("alexprep", "replay", data, "--run", out, "--step", step, "--index", 3, "--out", tmp_path / "a.png", "--json")

    assert torch.load(out / "diverged.pt", weights_only=True)["step"] == step
    assert len(receipts) == 16
    assert json.loads(replayed.stdout) == receipts[3] | {"png": str(tmp_path / "a.png")}
    assert f"alexprep replay {data} --run {out} --step {step} --index 0" in done.stderr


@pytest.mark.parametrize("ranks", [[], ["--cpu-ranks", 2, "--parallel", "towers"]], ids=["one", "two"])
def test_a_dry_run_goes_through_everything_and_leaves_nothing(data, tmp_path, ranks):
    done = command("alextrain", "run", data, *SMALL, "--dry-run", *ranks, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})

    assert done.returncode == 0, done.stderr
    assert "dry run: all is well. One step, checkpoint, evaluation and report took" in done.stderr
    assert "GB of memory on rank 0. The run is 95 epochs of 12 steps" in done.stderr
    assert not [path.name for path in tmp_path.iterdir() if not path.name.startswith("torchelastic_")]  # torch's own, of its launcher


def test_a_dry_run_finds_what_is_wrong(data, tmp_path):
    done = called("alextrain", "run", data, *SMALL, "--dry-run", "--crop", 73, cwd=tmp_path)
    both = called("alextrain", "run", data, "--dry-run", "--resume", cwd=tmp_path)

    assert (done.returncode, "crop 73 does not fit" in done.stderr) == (1, True)
    assert (both.returncode, "cannot be combined with --resume" in both.stderr) == (2, True)


def test_the_newest_checkpoints_are_kept(data, tmp_path):
    out = tmp_path / "run"
    done = called("alextrain", "run", data, *SMALL, *EACH_STEP, "--set", "keep=3", "--steps", 7, "--out", out)

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("*.pt")) == ["last.pt", "step-5.pt", "step-6.pt", "step-7.pt"]
    assert [load_checkpoint(out / f"step-{step}.pt")["step"] for step in (5, 6, 7)] == [5, 6, 7]


def test_a_run_goes_on_in_another_layout_with_other_ranks(data, undisturbed, tmp_path):
    """Towers on two ranks, hybrid on four, one process: the losses of one process throughout, to float32 rounding."""
    out = tmp_path / "run"
    begun = [*SMALL, "--set", "log_steps=1", "--set", "width=0.0625", "--epochs", 1]
    whole = command("alextrain", "run", data, *begun, "--out", tmp_path / "whole")
    parts = [
        command("alextrain", "run", data, *begun, "--cpu-ranks", 2, "--parallel", "towers", "--steps", 4, "--out", out),
        command("alextrain", "run", data, "--resume", "--cpu-ranks", 4, "--parallel", "hybrid", "--steps", 8, "--out", out),
        command("alextrain", "run", data, "--resume", "--parallel", "data", "--steps", 12, "--out", out),
    ]

    assert [done.returncode for done in (whole, *parts)] == [0] * 4, [done.stderr for done in parts]
    assert [row["parallel"] for row in rows(out, "start")] == ["towers", "hybrid", "data"]
    assert list(losses(out).values()) == pytest.approx(list(losses(tmp_path / "whole").values()), rel=1e-3)
