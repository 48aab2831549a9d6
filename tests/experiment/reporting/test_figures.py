"""The paper's figures 3 and 4 of a run."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from ...support.commands import called
from ...support.shards import training_shards

pytestmark = pytest.mark.process


def test_figures_3_and_4_are_drawn_with_neighbours_that_are_in_the_training_set(two_runs):
    done = called("alextrain", "figures", two_runs / "0", "--queries", "2", "--nearest", "3", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)

    assert len(value["chroma"]) == 2
    vectors = {}
    for split in ("val", "train"):
        out = two_runs / f"{split}-features.parquet"
        assert (
            called("alextrain", "features", "--data", two_runs / "shards", "--checkpoint", two_runs / "0", "--split", split, "--out", out).returncode
            == 0
        )
        vectors[split] = torch.tensor(pq.read_table(out)["features"].to_pylist(), dtype=torch.float64)
    assert [len(row["nearest"]) for row in value["neighbours"]] == [3, 3]
    for row in value["neighbours"]:
        distances = (vectors["train"] - vectors["val"][row["record"]]).norm(dim=1)
        assert [number for number, _ in row["nearest"]] == distances.argsort(stable=True)[:3].tolist()
        assert [distance for _, distance in row["nearest"]] == pytest.approx(distances.sort().values[:3].tolist(), rel=1e-5)
    assert (two_runs / "0" / "figure-3.png").read_bytes().startswith(b"\x89PNG")
    assert (two_runs / "0" / "figure-4.png").read_bytes().startswith(b"\x89PNG")
    assert "nearest training images" in (two_runs / "0" / "report.html").read_text()


def test_figures_are_of_the_run_s_own_checkpoints_and_data(two_runs, tmp_path):
    before = (two_runs / "0" / "neighbours.json").read_bytes()
    other = called("alextrain", "figures", two_runs / "0", "--checkpoint", "../1/last.pt")
    assert other.returncode == 1
    assert "must be the name of a file" in other.stderr
    data = training_shards(tmp_path, 12)
    assert "is not the data set" in called("alextrain", "figures", two_runs / "0", "--data", data).stderr
    assert (two_runs / "0" / "neighbours.json").read_bytes() == before
