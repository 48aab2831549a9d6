"""A checkpoint is measured with its own settings, alone or with others."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from ...support.commands import called
from ...support.images import make_images
from ...support.runs import rows
from ...support.shards import make_shards


def evaluated(two_runs, *arguments):
    done = called("alextrain", "eval", "--data", two_runs / "shards", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.process
def test_a_checkpoint_is_evaluated_with_its_own_preset(two_runs):
    """Networks of other presets have the same shapes: only the numbers would tell."""
    value = evaluated(two_runs, "--checkpoint", two_runs / "0")
    rows = [json.loads(line) for line in (two_runs / "0" / "metrics.jsonl").read_text().splitlines()]
    logged = next(row for row in rows if row["event"] == "result" and row["views"] == 10)

    assert value["loss"] == pytest.approx(logged["loss"], rel=1e-5)
    assert value["top1_error"] == logged["top1_error"]


@pytest.mark.process
def test_an_ensemble_of_two_checkpoints_averages_their_probabilities(two_runs):
    alone = [evaluated(two_runs, "--checkpoint", two_runs / seed, "--predictions", two_runs / f"{seed}.parquet") for seed in ("0", "1")]
    together = evaluated(two_runs, "--checkpoint", two_runs / "0", "--checkpoint", two_runs / "1", "--predictions", two_runs / "both.parquet")
    twice = evaluated(two_runs, "--checkpoint", two_runs / "0", "--checkpoint", two_runs / "0")
    tables = [pq.read_table(two_runs / f"{name}.parquet") for name in ("0", "1", "both")]
    true = [torch.tensor(table["true_p"].to_pylist()) for table in tables]

    assert torch.allclose((true[0] + true[1]) / 2, true[2], atol=1e-6)
    assert twice["loss"] == pytest.approx(alone[0]["loss"], rel=1e-6)
    assert together["count"] == 17
    assert {"top1_interval", "classes", "confusions", "calibration"} <= set(together)
    assert [row["name"] for row in together["classes"]] == ["ant", "bee"]


def test_eval_says_it_for_people_too(run):
    done = called("alextrain", "eval", "--data", run / "shards", "--checkpoint", run / "run", "--precision", "bfloat16", "--crops", "1")

    assert done.returncode == 0, done.stderr
    assert "17 images of val, the centre view" in done.stdout
    assert "(95 %: " in done.stdout
    assert "classes, the worst first" in done.stdout


def test_a_place_that_cannot_take_the_result_is_refused_before_the_work(run, tmp_path):
    (tmp_path / "last.pt").write_text("mine")
    for place, message in ((tmp_path / "last.pt", "must end in .parquet"), (tmp_path / "no" / "p.parquet", "there is no folder")):
        done = called("alextrain", "eval", "--data", run / "shards", "--checkpoint", run / "run", "--predictions", place)
        assert done.returncode == 2
        assert message in done.stderr
    assert (tmp_path / "last.pt").read_text() == "mine"


def test_a_command_of_one_process_says_so_under_torchrun(run):
    for arguments in (
        ("features", "--data", run / "shards", "--checkpoint", run / "run"),
        ("figures", run / "run"),
        ("predict", "--checkpoint", run / "run", "x.jpg"),
    ):
        done = called(
            "alextrain", *arguments, env={"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        )
        assert done.returncode == 1
        assert "start it without torchrun" in done.stderr


def test_eval_says_what_the_run_said(finished, few):
    folder, _ = finished
    for views in ("10", "1"):
        value = json.loads(called("alextrain", "eval", "--checkpoint", folder, "--data", few, "--crops", views, "--json").stdout)
        logged = next(row for row in rows(folder, "result") if str(row["views"]) == views)

        assert value["crops"] == int(views)
        assert {name: value[name] for name in ("count", "top1_error", "top5_error")} == {n: logged[n] for n in ("count", "top1_error", "top5_error")}
        assert value["loss"] == pytest.approx(logged["loss"], rel=1e-5)


def test_other_classes_are_refused(finished, tmp_path):
    make_shards(make_images(tmp_path / "src", {"train/ant": 9, "train/cow": 9}), tmp_path / "out", size=64)
    run = called("alextrain", "eval", "--checkpoint", finished[0], "--data", tmp_path / "out", "--split", "train")

    assert run.returncode == 1
    assert "other classes than the checkpoint was trained on (2 and 2; 'bee' against 'cow')" in run.stderr
