"""A grid of switches and seeds as one job: resumable, in parts, and its table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alexprep.cli.ablation import PAPER, cells, grid, markdown, study, summary
from alexprep.cli.settings import Settings

from .conftest import command, training_shards
from .test_cli import TINY

QUICK = [*TINY, "--epochs", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return training_shards(tmp_path_factory.mktemp("ablate"), 20)


def ablate(data, out, *arguments):
    return command("alextrain", "ablate", data, "--out", out, *QUICK, *arguments)


def losses(folder):
    return [row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if row["event"] == "step"]


def test_a_grid_is_every_combination_with_every_seed(tmp_path):
    rows = grid(Settings(), ["norm=true,false", "lr=0.01,0.003"])
    assert list(rows) == ["norm=true,lr=0.01", "norm=true,lr=0.003", "norm=false,lr=0.01", "norm=false,lr=0.003"]
    made = cells(rows, 2, tmp_path)
    assert len({cell.folder.directory for cell in made}) == 8
    assert [cell.settings.seed for cell in made] == [0] * 4 + [1] * 4
    for axes in (["norm"], ["norm="], ["seed=1,2"]):
        with pytest.raises(ValueError, match="--vary takes"):
            grid(Settings(), axes)
    with pytest.raises(ValueError, match="no setting nrom"):
        grid(Settings(), ["nrom=true"])


def test_the_study_switches_off_one_thing_at_a_time():
    base = Settings()
    rows = study(base, ())
    assert list(rows) == list(PAPER)
    assert rows["baseline"] == base
    for name, row in rows.items():
        changed = {key for key, value in vars(row).items() if getattr(base, key) != value}
        assert changed == set(PAPER[name][0])
    assert list(study(base, ("tanh",))) == ["baseline", "tanh"]
    with pytest.raises(ValueError, match="no row no-nrom"):
        study(base, ("no-nrom",))


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


def test_parts_do_all_of_it_between_them(data, tmp_path):
    for part in ("1/2", "2/2"):
        done = ablate(data, tmp_path / "out", "--vary", "dropout=true,false", "--part", part)
        assert done.returncode == 0, done.stderr
        assert "1 of them to be done here" in done.stderr
    assert "2 of 2 runs are finished" in done.stderr
    assert ablate(data, tmp_path / "out", "--vary", "dropout=true,false", "--part", "3/2").returncode == 2


def test_a_cell_is_the_run_that_the_command_line_would_make(data, tmp_path):
    assert ablate(data, tmp_path / "out", "--vary", "activation=tanh", "--seed", "5").returncode == 0
    alone = command("alextrain", "run", data, "--out", tmp_path / "alone", *QUICK, "--set", "activation=tanh", "--seed", "5")
    assert alone.returncode == 0
    assert losses(tmp_path / "out" / "activation=tanh" / "seed-5") == losses(tmp_path / "alone")


def test_a_job_that_is_stopped_goes_on_where_it_was(data, tmp_path):
    out = tmp_path / "out"
    arguments = ["ablate", data, "--out", out, *TINY, "--epochs", "60", "--vary", "norm=true,false", "--set", "checkpoint_steps=2"]
    process = subprocess.Popen([Path(sys.executable).parent / "alextrain", *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    while not list(out.rglob("last.pt")):
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "stopped by SIGTERM; the same command goes on" in said
    run = out / "norm=true" / "seed-0"
    before = losses(run)
    assert 0 < len(before) < 180
    assert not (out / "norm=false").exists() or not losses(out / "norm=false" / "seed-0")

    done = command("alextrain", *arguments)
    assert done.returncode == 0, done.stderr
    assert losses(run)[: len(before)] == before
    assert len(losses(run)) == len(losses(out / "norm=false" / "seed-0")) == 180


def test_other_settings_than_a_cells_and_cells_that_fail_are_named(data, tmp_path):
    out = tmp_path / "out"
    assert ablate(data, out, "--vary", "norm=true").returncode == 0
    other = ablate(data, out, "--vary", "norm=true", "--set", "patience=7")
    assert other.returncode == 1
    assert "patience 4 instead of 7" in other.stderr

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


def test_a_killed_job_leaves_no_run_behind(data, tmp_path):
    out = tmp_path / "out"
    arguments = ["ablate", data, "--out", out, *TINY, "--epochs", "500", "--vary", "norm=true"]
    process = subprocess.Popen([Path(sys.executable).parent / "alextrain", *map(str, arguments)], stderr=subprocess.DEVNULL)
    while not list(out.rglob("metrics.jsonl")):
        time.sleep(0.05)
    (child,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split() or _threads_children(process.pid))
    process.kill()
    process.wait()
    for _ in range(400):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the run goes on")


def _threads_children(pid):
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def test_an_empty_table_is_one_too():
    assert summary([]) == []
    assert markdown([]).startswith("|")
