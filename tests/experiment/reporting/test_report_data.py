"""What a run has kept is on its page; what is damaged or gone costs only its section."""

import json
import re
import shutil

import pytest

from ...support.commands import called


@pytest.mark.process
def test_what_a_run_has_kept_is_on_its_page(runs):
    page = (runs / "0" / "report.html").read_text()
    for heading in ("Figure 3", "Figure 4: what it sees", "Figure 4: nearest training images", "Calibration", "What training sees", "Configuration"):
        assert heading in page
    assert "they do not apply to other data" in page  # ten classes are not to be compared with the paper's
    assert page.count(" (the true class)") == 8  # of two classes, the true one is always among the five best
    assert "top " in page
    assert "R, G, B " in page


@pytest.mark.process
def test_runs_are_told_apart_by_as_much_of_their_names_as_it_takes(runs, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs / "0", tmp_path / name / "seed-0")
    assert called("alextrain", "report", tmp_path / "a" / "seed-0", tmp_path / "b" / "seed-0", "--out", tmp_path / "x.html").returncode == 0
    page = (tmp_path / "x.html").read_text()
    assert '"name":"a/seed-0"' in page
    assert '"name":"b/seed-0"' in page


@pytest.mark.process
def test_rows_that_cannot_be_are_passed_over(runs, tmp_path):
    shutil.copytree(runs / "0", tmp_path / "run")
    step = {"event": "step", "step": 99, "epoch": 9, "loss": 1.0, "error": 0.5, "lr": 0.1, "images_per_s": 1.0, "wait_share": 0.0}
    result = {"event": "result", "step": 9, "views": 10, "count": 5, "top1_error": 0.5, "top5_error": 0.1, "loss": 1.0}
    strange = [step | {"loss": 10**400}, step | {"error": "x"}, step | {"lr": float("nan")}, step | {"step": -1}, result | {"top1_error": 2.0}]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write("[" * 200_000 + "\n" + "".join(json.dumps(row) + "\n" for row in strange))
    done = called("alextrain", "report", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert '"steps":[[1,1,18]]' in page
    assert "NaN" not in re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1]


@pytest.mark.process
def test_one_damaged_part_of_a_run_costs_only_its_section(runs, tmp_path):
    shutil.copytree(runs / "0", tmp_path / "run")
    for content in ("[]", '{"plan": 1}', "no"):
        (tmp_path / "run" / "neighbours.json").write_text(content)
        assert called("alextrain", "report", tmp_path / "run").returncode == 0
        page = (tmp_path / "run" / "report.html").read_text()
        assert "Something is left out: " in page
        assert "Worst mistakes" in page or "Calibration" in page


@pytest.mark.process
def test_a_page_of_a_run_whose_data_is_gone_says_so(runs, tmp_path):
    shutil.copytree(runs / "0", tmp_path / "run")
    text = (tmp_path / "run" / "metrics.jsonl").read_text().replace(str(runs / "shards"), "/nowhere/shards")
    (tmp_path / "run" / "metrics.jsonl").write_text(text)
    assert called("alextrain", "report", tmp_path / "run").returncode == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "No images are shown: " in page
    assert "/nowhere/shards" in page
    assert 'id="plots"' in page
    assert called("alextrain", "report", tmp_path / "run", "--data", "/nowhere").returncode == 1
    assert called("alextrain", "report", tmp_path / "run", "--data", runs / "shards").returncode == 0
    assert "What training sees" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.process
def test_the_kernels_of_a_run_are_kept_on_the_way_and_gone_steps_are_forgotten(runs):
    names = sorted(int(path.stem.removeprefix("step-")) for path in (runs / "0" / "kernels").iterdir())
    assert names[0] == 0
    assert names[-1] == 18
    assert len(names) >= 3


def test_the_report_is_one_self_contained_page(finished):
    folder, _ = finished
    page = (folder / "report.html").read_text()

    assert page.startswith("<!doctype html>")
    assert 'id="plots"' in page
    assert page.count('alt="its view in epoch') == 16  # four records, four epochs each
    assert "top-1 error" in page
    assert "batch_size" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)  # nothing is fetched
    assert len(page) < 2_000_000


def test_rows_that_are_not_ours_do_not_spoil_the_report(finished, few, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / "copy")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step"}\n{"event": ["a"]}\n{"event": "eval", "epoch": "x"}\n{"event": "result"}\n{"event": "step", "step": 9')
    run = called("alextrain", "report", copy, "--data", few)

    assert run.returncode == 0, run.stderr
    assert '"steps":[[1,1,30]]' in (copy / "report.html").read_text()
