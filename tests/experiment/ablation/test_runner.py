"""A grid as one job: resumable, in parts, and its table."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alexprep.experiment.ablation.grid import grid, trials
from alexprep.experiment.ablation.table import markdown, summary

from ...support.commands import TINY, called, command
from ...support.images import make_images
from ...support.runs import wait_for
from ...support.shards import make_shards, training_shards

QUICK = [*TINY, "--epochs", "1"]


RUN = {"width": 0.05, "batch_size": 12, "crop": 64, "log_steps": 1, "eval_batch_size": 8, "epochs": 1}  # the same


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return training_shards(tmp_path_factory.mktemp("ablate"), 20)


def ablate(data, out, *arguments):
    return called("alextrain", "ablate", data, "--out", out, *QUICK, *arguments)


def losses(folder):
    return [row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if row["event"] == "step"]


@pytest.mark.process
def test_a_job_runs_every_cell_once_and_tells_the_change(data, tmp_path):
    out = tmp_path / "out"
    first = ablate(data, out, "--study", "--only", "no-norm", "--seeds", "2", "--jobs", "2", "--json")
    assert first.returncode == 0, first.stderr
    assert "4 runs, 4 of them to be done here" in first.stderr
    table = {row["name"]: row for row in json.loads(first.stdout)}
    assert len(table["baseline"]["runs"]) == len(table["no-norm"]["runs"]) == 2
    change = table["no-norm"]["change_ten_top1"]["mean"]
    assert change == pytest.approx(table["no-norm"]["ten_top1"]["mean"] - table["baseline"]["ten_top1"]["mean"])
    assert "change_ten_top1" not in table["baseline"]
    assert (table["no-norm"]["paper"], table["no-norm"]["logged"]) == ("+1.4 / +1.2", "+1.37 / +1.15")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")}

    again = ablate(data, out, "--study", "--only", "no-norm", "--seeds", "2")
    assert again.returncode == 0
    assert "to be done" not in again.stderr
    assert "+1.4 / +1.2" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("metrics.jsonl")} == times
    assert (out / "ablation.md").read_text() == again.stdout


@pytest.mark.process
def test_parts_do_all_of_it_between_them(data, tmp_path):
    for part in ("1/2", "2/2"):
        done = ablate(data, tmp_path / "out", "--vary", "dropout=true,false", "--part", part)
        assert done.returncode == 0, done.stderr
        assert "1 of them to be done here" in done.stderr
    assert "2 of 2 runs are finished" in done.stderr
    assert ablate(data, tmp_path / "out", "--vary", "dropout=true,false", "--part", "3/2").returncode == 2


@pytest.mark.process
def test_a_cell_is_the_run_that_the_command_line_would_make(data, tmp_path):
    assert ablate(data, tmp_path / "out", "--vary", "activation=tanh", "--seed", "5").returncode == 0
    alone = called("alextrain", "run", data, "--out", tmp_path / "alone", *QUICK, "--set", "activation=tanh", "--seed", "5")
    assert alone.returncode == 0
    assert losses(tmp_path / "out" / "activation=tanh" / "seed-5") == losses(tmp_path / "alone")


@pytest.mark.process
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_job_that_is_stopped_goes_on_where_it_was(data, tmp_path, number, code):
    out = tmp_path / "out"
    arguments = ["ablate", data, "--out", out, *TINY, "--epochs", "30", "--vary", "norm=true,false", "--set", "checkpoint_steps=2"]
    process = subprocess.Popen([Path(sys.executable).parent / "alextrain", *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(out.rglob("last.pt")), process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert f"stopped by {number.name}; run the same command again to continue" in said
    run = out / "norm=true" / "seed-0"
    before = losses(run)
    assert 0 < len(before) < 90
    assert not (out / "norm=false").exists() or not losses(out / "norm=false" / "seed-0")

    done = command("alextrain", *arguments)
    assert done.returncode == 0, done.stderr
    assert losses(run)[: len(before)] == before
    assert len(losses(run)) == len(losses(out / "norm=false" / "seed-0")) == 90


@pytest.mark.process
def test_other_settings_than_a_cells_and_cells_that_fail_are_named(data, tmp_path):
    out = tmp_path / "out"
    assert ablate(data, out, "--vary", "norm=true").returncode == 0
    other = ablate(data, out, "--vary", "norm=true", "--set", "patience=7")
    assert other.returncode == 1
    assert "plateau_epochs 4 instead of 7" in other.stderr

    failed = ablate(data, tmp_path / "second", "--vary", "lr=0.01,1e30")
    assert failed.returncode == 1
    assert "1 runs failed: lr=1e30, seed 0: " in failed.stderr
    assert "diverged" in failed.stderr
    assert "lr=0.01" in failed.stdout
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize("arguments", [(), ("--study", "--vary", "norm=true"), ("--only", "tanh", "--vary", "norm=true")], ids=str)
def test_a_job_needs_to_know_which_runs(data, tmp_path, arguments):
    done = ablate(data, tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_a_killed_job_leaves_no_run_behind(data, tmp_path):
    out = tmp_path / "out"
    arguments = ["ablate", data, "--out", out, *TINY, "--epochs", "500", "--vary", "norm=true"]
    process = subprocess.Popen([Path(sys.executable).parent / "alextrain", *map(str, arguments)], stderr=subprocess.DEVNULL)
    wait_for(lambda: list(out.rglob("metrics.jsonl")), process)
    (child,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() or _threads_children(process.pid))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while _runs(child):
        assert time.monotonic() < deadline, "the run goes on"
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def _threads_children(pid):
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.process
def test_changes_are_against_the_baseline_or_there_are_none(data, tmp_path):
    rows = grid(dict(RUN), ["norm=true,false"])
    made = trials(rows, 1, tmp_path / "out")
    assert ablate(data, tmp_path / "out", "--vary", "norm=true,false").returncode == 0
    assert all(trial.finished() for trial in made)
    assert "change_ten_top1" in summary(made, "norm=true")[1]
    assert "change_ten_top1" not in summary(made[1:], "norm=true")[0]  # the baseline is still running
    assert summary([], "norm=true") == []
    assert markdown([]).startswith("|")


@pytest.mark.process
def test_a_run_that_was_killed_between_its_results_is_not_finished(data, tmp_path):
    assert ablate(data, tmp_path / "out", "--vary", "norm=true").returncode == 0
    (trial,) = trials(grid(dict(RUN), ["norm=true"]), 1, tmp_path / "out")
    assert trial.finished()
    kept = [line for line in trial.folder.metrics.read_text().splitlines() if '"views": 1,' not in line or '"result"' not in line]
    trial.folder.metrics.write_text("\n".join(kept) + "\n")
    assert not trial.finished()
    assert ablate(data, tmp_path / "out", "--vary", "norm=true").returncode == 0
    assert trial.finished()


@pytest.mark.process
def test_data_without_anything_to_compare_on_is_refused(data, tmp_path):
    make_shards(make_images(tmp_path / "src", {"train/ant": 20, "train/bee": 20}), tmp_path / "train", size=72)
    called("alexprep", "stats", tmp_path / "train", "--pca")
    done = ablate(tmp_path / "train", tmp_path / "out", "--vary", "norm=true")
    assert done.returncode == 1
    assert "nothing to compare" in done.stderr
