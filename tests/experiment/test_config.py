"""Settings: from a file, from options, from --set; and what may change on resuming."""

import pytest
from alexprep.experiment.config import RunConfig, resolve, resume


def test_a_run_s_config_file_gives_its_settings_again(tmp_path):
    settings = resolve("paper", None, {"lr": 0.02, "epochs": None}, ("width=0.5", "colour=0"))
    (tmp_path / "config.toml").write_text(settings.to_toml())

    assert settings == RunConfig().changed(preset="paper", width=0.5, epochs=90, lr=0.02, schedule="plateau", mean="pixel", colour=0.0, divide=1.0)
    assert resolve(None, tmp_path / "config.toml", {}, ()) == settings


def test_a_single_drop_is_a_number_and_several_are_a_list():
    texts = ("drops=0.5", "drops=[0.5, 0.75]", "drops=0.1,0.2")

    assert [resolve(None, None, {}, (text,)).trainer.drop_shares() for text in texts] == [[0.5], [0.5, 0.75], [0.1, 0.2]]


def test_a_resumed_run_may_learn_more_slowly_and_end_elsewhere():
    stored = RunConfig().changed(width=0.5)

    assert resume(stored, {"lr": 0.001, "steps": 7, "width": 0.5}) == RunConfig().changed(width=0.5, lr=0.001, steps=7)
    with pytest.raises(ValueError, match="seed cannot change"):
        resume(stored, {"seed": 1})


def test_options_go_before_the_file_and_set_before_options(tmp_path):
    (tmp_path / "c.toml").write_text('preset = "paper"\nlr = 0.5\nseed = 3\n')
    settings = resolve(None, tmp_path / "c.toml", {"lr": 0.25, "seed": 4}, ("seed=5",))

    assert (settings.data.mean, settings.trainer.lr, settings.data.seed) == ("pixel", 0.25, 5)
