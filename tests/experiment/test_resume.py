"""Never a lost step: a run that was killed goes on to the same losses and weights."""

import os
import random
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch

from ..support.commands import TINY, called, command
from ..support.runs import EACH_STEP, SMALL, losses, rows, same_weights, started, wait_for, without_times
from ..support.shards import damage

pytestmark = pytest.mark.process


def test_twenty_kills_at_random_steps_change_no_loss_and_no_weight(dozen, undisturbed, tmp_path):
    out, draw, kills = tmp_path / "run", random.Random(8), 0
    while kills < 20:
        resume = ["--resume"] if (out / "config.toml").exists() else [*SMALL, *EACH_STEP, "--epochs", 5]
        process = started("run", dozen, "--out", out, *resume)
        before = len(rows(out))
        target = min(before + draw.randrange(1, 5), 58)
        wait_for(lambda target=target: len(rows(out)) >= target, process)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        kills += 1
    done = command("alextrain", "run", dozen, "--out", out, "--resume")

    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(undisturbed)
    assert same_weights(out, undisturbed)
    assert [row["top1_error"] for row in rows(out, "eval")] == [row["top1_error"] for row in rows(undisturbed, "eval")]


@pytest.mark.parametrize("stop", [4, 10, 25])
def test_a_run_killed_mid_epoch_resumes_to_the_same_losses_and_weights(finished, few, tmp_path, stop):
    """kill -9 when step `stop` is logged; checkpoints every third step; then --resume."""
    folder, _ = finished
    arguments = ["alextrain", "run", str(few), "--out", str(tmp_path / "run"), "--epochs", "3", *TINY, "--set", "checkpoint_steps=3"]
    process = subprocess.Popen(
        [os.path.join(os.path.dirname(sys.executable), arguments[0]), *arguments[1:]], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    metrics, deadline = tmp_path / "run/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and f'"step": {stop},' in metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "run/report.html").exists()
    run = command("alextrain", "run", few, "--out", tmp_path / "run", "--resume")

    assert run.returncode == 0, run.stderr
    assert without_times(rows(tmp_path / "run", "step")) == without_times(rows(folder, "step"))
    a, b = (torch.load(path / "last.pt", weights_only=True)["model"] for path in (folder, tmp_path / "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_with_a_run_is_not_overwritten_and_keeps_its_settings(finished, few):
    folder, _ = finished
    again = called("alextrain", "run", few, "--out", folder, *TINY)
    changed = called("alextrain", "run", few, "--out", folder, "--resume", "--seed", "1", "--set", "width=0.1", "--lr", "0.5")

    assert again.returncode == 1
    assert "already holds a run: --resume continues it" in again.stderr
    assert changed.returncode == 2
    assert "a resumed run keeps its settings: width, seed cannot change (only lr, steps, until, on_bad, log_steps," in changed.stderr


def test_resuming_takes_no_other_settings_by_the_back_door_and_no_lost_checkpoint(finished, few, tmp_path):
    edited = shutil.copytree(finished[0], tmp_path / "edited")
    (edited / "config.toml").write_text((edited / "config.toml").read_text().replace("seed = 0", "seed = 7"))
    lost = shutil.copytree(finished[0], tmp_path / "lost")
    (lost / "last.pt").unlink()
    before = (lost / "metrics.jsonl").read_text()
    runs = [called("alextrain", "run", few, "--out", folder, "--resume") for folder in (edited, lost)]

    assert [run.returncode for run in runs] == [1, 1]
    assert "a resumed run keeps its settings: seed cannot change" in runs[0].stderr
    assert "last.pt is gone" in runs[1].stderr
    assert (lost / "metrics.jsonl").read_text() == before


def test_a_run_that_a_damaged_record_stopped_goes_on_with_on_bad_skip(few, tmp_path):
    copy = shutil.copytree(few, tmp_path / "shards")
    for record in (77, 78, 129):
        damage(copy, record, 200)
    options = (copy, *TINY, "--steps", "10", "--set", "checkpoint_steps=1", "--out", tmp_path / "run")
    stopped = called("alextrain", "run", *options)
    resumed = called("alextrain", "run", copy, "--out", tmp_path / "run", "--resume", "--on-bad", "skip")

    assert stopped.returncode == 1
    assert "Error: damaged records; alexprep repair makes their shards again:" in stopped.stderr
    assert resumed.returncode == 0, resumed.stderr
    assert [row["step"] for row in rows(tmp_path / "run", "step")] == list(range(1, 11))
    assert re.search(r"^warning: record (79|0) is given instead of a damaged one: record (77|78|129) \(train-", resumed.stderr, re.MULTILINE)
