"""The configuration of a run: nested, typed, made once; what earlier releases wrote is read."""

import json
import shutil
import tomllib
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path

import pytest
from alexprep.experiment import Measured, Run, RunConfig
from alexprep.experiment.checkpoint import checkpoint_settings, load_checkpoint
from alexprep.experiment.config import EARLIER_NAMES, NOT_OF_A_RUN, collect, hints, paths, resolve, resume
from alexprep.experiment.presets import RECIPES
from alexprep.experiment.run_folder import RunFolder
from alexprep.model.config import TrainerConfig
from alexprep.model.events import of_kind
from alexprep.pipeline import LoaderConfig, ShardConfig
from alexprep.pipeline.config import LoaderOptions, hints_of
from hypothesis import given
from hypothesis import strategies as st

from ..support.images import make_images
from ..support.paths import ROOT
from ..support.shards import make_shards

EARLIER = ROOT / "tests" / "golden" / "run-0.1.0"  # a run of the release before configurations were nested


def test_every_setting_has_one_name_and_one_place():
    leaves = [name for config in (LoaderConfig, TrainerConfig) for name in hints_of(config)]

    assert len(leaves) == len(set(leaves))
    assert set(paths()) == set(RunConfig().flat())
    assert {name for name in hints_of(LoaderConfig) if name not in paths()} == set(NOT_OF_A_RUN)


@pytest.mark.parametrize("name", list(paths()))
def test_every_setting_says_what_it_means_and_keeps_its_own_default(name):
    assert hints()[name].meaning
    assert RunConfig().changed(**{name: RunConfig().flat()[name]}) == RunConfig()


def test_a_setting_can_be_given_by_its_own_name_and_by_its_path():
    for name, path in paths().items():
        assert collect(None, None, {}, (f"{name}=1",)) == collect(None, None, {}, (f"{'.'.join(path)}=1",)) == {name: 1}


@pytest.mark.parametrize("preset", RECIPES)
def test_a_config_file_gives_the_same_configuration_again_nested_and_flat(preset, tmp_path):
    config = RunConfig.from_preset(preset, lr=0.25, threads=3)
    (tmp_path / "nested.toml").write_text(config.to_toml())
    (tmp_path / "flat.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in config.flat().items()))

    assert set(tomllib.loads(config.to_toml())) == {"network", "data", "trainer", "run"}
    assert resolve(None, tmp_path / "nested.toml", {}, ()) == resolve(None, tmp_path / "flat.toml", {}, ()) == config


def test_the_files_of_earlier_releases_are_read():
    config, checkpoint = RunFolder(EARLIER).settings(), load_checkpoint(EARLIER)

    assert (config.network.width, config.trainer.schedule, config.trainer.plateau_epochs, config.data.threads) == (0.01, "plateau", 7, None)
    assert checkpoint_settings(checkpoint) == config
    assert [type(event).__name__ for event in RunFolder(EARLIER).events()][:2] == ["Started", "StepLog"]
    assert len(of_kind(RunFolder(EARLIER).events(), Measured)) == 2


def test_every_key_that_an_earlier_release_wrote_is_known():
    keys = list(tomllib.loads((EARLIER / "config.toml").read_text()))

    assert len(keys) == 43
    assert {EARLIER_NAMES.get(key, key) for key in keys} <= set(paths())
    for key in keys:
        collect(None, None, {}, (f"{key}=1",))


def test_a_run_of_an_earlier_release_goes_on(tmp_path):
    shutil.copytree(EARLIER, tmp_path / "run")
    make_images(tmp_path / "images", {"train/ant": 20, "train/bee": 20, "val/ant": 6, "val/bee": 6})
    make_shards(tmp_path / "images", tmp_path / "shards", size=72)
    run = Run.resume(tmp_path / "run", data=tmp_path / "shards", steps=6)
    events = list(run)

    assert run.step == 6
    assert run.settings.trainer.plateau_epochs == 7
    assert [result.step for result in of_kind(events, Measured)] == [6, 6]


def test_a_configuration_is_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        RunConfig().trainer.lr = 1.0
    with pytest.raises(TypeError):
        TrainerConfig(95)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"epochs": 0}, "epochs must be 1..1,000,000, got 0"),
        ({"width": 17.0}, "width must be above 0 and at most 16, got 17.0"),
        ({"until": float("nan")}, "until must be at least 0 and below 1, got nan"),
        ({"schedule": "cosine"}, "schedule must be one of scripted, plateau, fixed; got 'cosine'"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"norm": 1}, "norm must be true or false, got 1"),
        ({"preset": "vgg"}, "preset must be one of source, paper"),
        ({"crop": 0}, "crop must be at least 1 pixel, got 0"),
        ({"accumulate": 200}, "accumulate must be at most the batch size, 128; got 200"),
        ({"lrr": 1.0}, "no setting lrr; there are preset, width"),
        ({"trainer.lrr": 1.0}, "no setting trainer.lrr"),
        ({"patience": 0}, "plateau_epochs must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_found_and_what_is_expected(settings, message):
    with pytest.raises(ValueError) as caught:
        RunConfig.from_preset(**settings)

    assert message in str(caught.value)


@pytest.mark.parametrize("config", [LoaderConfig, ShardConfig, TrainerConfig])
@given(data=st.data())
def test_limits_are_what_the_annotations_say(config, data):
    """Of every number with limits on both sides: the ends are taken, what is beyond them is refused."""
    from alexprep.pipeline.config import check_fields

    closed = [(name, hint) for name, hint in hints_of(config).items() if hint.limits and hint.limits.ge is not None and hint.limits.le is not None]
    if not closed:
        return
    name, hint = data.draw(st.sampled_from(closed))
    low, high = hint.limits.ge, hint.limits.le
    beyond = data.draw(st.one_of(st.integers(max_value=int(low) - 1), st.integers(min_value=int(high) + 1)))
    with pytest.raises(ValueError, match=name):
        check_fields(config(**{name: beyond}))


def test_the_keywords_of_a_loader_are_its_fields():
    """`Loader(**options: Unpack[LoaderOptions])`: editors and type checkers see the TypedDict, the program the dataclass."""
    wanted = {one.name for one in fields(LoaderConfig)}

    assert set(LoaderOptions.__annotations__) == wanted
    for name, kind in LoaderOptions.__annotations__.items():
        annotation = LoaderConfig.__annotations__[name]
        assert kind == annotation.__origin__, name


def test_the_earlier_name_of_a_field_works_and_warns():
    with pytest.warns(DeprecationWarning, match="patience is now server_patience"):
        config = LoaderConfig(patience=5)

    assert config.server_patience == config.patience == 5


def test_parts_are_dataclasses_that_a_program_can_build_by_itself():
    config = RunConfig(data=LoaderConfig(crop=64), trainer=TrainerConfig(lr=0.5))

    assert all(is_dataclass(getattr(config, one.name)) for one in fields(config))
    assert config.changed(lr=0.25) == RunConfig(data=LoaderConfig(crop=64), trainer=TrainerConfig(lr=0.25))


def test_the_documented_settings_are_those_of_the_code():
    page = (Path(ROOT) / "docs" / "settings.md").read_text()

    assert [name for name in (*paths(), *hints_of(LoaderConfig), *hints_of(ShardConfig)) if f"| `{name}` |" not in page] == []


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
