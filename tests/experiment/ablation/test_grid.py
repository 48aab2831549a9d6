"""A grid of settings and seeds, and the rows of the paper."""

import pytest
from alexprep.experiment.ablation.grid import PAPER, grid, study, trials
from alexprep.experiment.config import RunConfig, completed


def test_a_grid_is_every_combination_with_every_seed(tmp_path):
    rows = grid({}, ["norm=true,false", "lr=0.01,0.003"])
    assert list(rows) == ["norm=true,lr=0.01", "norm=true,lr=0.003", "norm=false,lr=0.01", "norm=false,lr=0.003"]
    made = trials(rows, 2, tmp_path)
    assert len({trial.folder.directory for trial in made}) == 8
    assert [trial.settings.data.seed for trial in made] == [0] * 4 + [1] * 4
    for axes in (["norm"], ["norm="], ["seed=1,2"], ["lr=0.1", "lr=0.2"]):
        with pytest.raises(ValueError, match="--vary takes"):
            grid({}, axes)
    with pytest.raises(ValueError, match="no setting nrom"):
        grid({}, ["nrom=true"])
    with pytest.raises(ValueError, match="twice"):
        grid({}, ["lr=0.1,0.1"])


def test_a_row_of_another_preset_has_all_that_the_preset_says():
    rows = grid({"width": 0.5}, ["preset=source,paper"])
    assert rows["preset=paper"] == completed({"preset": "paper", "width": 0.5})
    assert (rows["preset=paper"].data.mean, rows["preset=paper"].trainer.epochs) == ("pixel", 90)


def test_the_study_switches_off_one_thing_at_a_time():
    base = RunConfig()
    rows = study({}, ())
    assert list(rows) == list(PAPER)
    assert rows["baseline"] == base
    for name, row in rows.items():
        changed = {key for key, value in row.flat().items() if base.flat()[key] != value}
        assert changed == set(PAPER[name][0])
    assert list(study({}, ("tanh",))) == ["baseline", "tanh"]
    assert "one-gpu" not in study({"preset": "paper"}, ())
    for given, only, message in (
        ({}, ("no-nrom",), "no row no-nrom"),
        ({"preset": "paper"}, ("one-gpu",), "half of the preset source"),
        ({"preset": "cifar"}, (), "--study needs the preset source or paper, got cifar"),
        ({"norm": False}, ("no-norm",), "would be the baseline itself"),
    ):
        with pytest.raises(ValueError, match=message):
            study(given, only)
