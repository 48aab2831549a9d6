"""Configuration of a run: one nested, typed, frozen value, saved with the run as config.toml.

Every setting has a unique name, so that `lr` and `trainer.lr` mean the same in --set, in
config.toml and in `RunConfig.from_preset`.
Order of precedence: preset < config file < options < --set.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from alexprep.model.config import NetworkConfig, TrainerConfig
from alexprep.model.training.schedule import SCRIPT, Plateau, Schedule, Timetable, drops_at
from alexprep.pipeline.config import Hint, LoaderConfig, check, check_fields, hints_of
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.storage.uri import read_file
from annotated_types import Interval, doc

from .presets import RECIPES, SOURCE
from .process.loggers import LOGGERS, names_of

MOST_TOML = 1 << 20  # maximum bytes of a config file
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
# fields of LoaderConfig that a run decides itself, or that belong to the machine
NOT_OF_A_RUN = ("split", "rank", "world_size", "device", "views", "layout", "dtype", "device_id", "cache", "cache_size")
EARLIER_NAMES = {"patience": "plateau_epochs"}  # renamed settings: old name -> current name
# settings that may change when a run is resumed: how far it goes, how often it is saved, and how
# the same steps are computed
MAY_CHANGE = (
    *("lr", "steps", "until", "on_bad", "log_steps", "checkpoint_steps", "checkpoint_minutes", "keep", "hang_seconds", "eval_batch_size", "threads"),
    *("prefetch", "form", "server_patience", "precision", "compile", "accumulate", "parallel", "gradients", "deterministic", "loggers"),
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings of what a run keeps and reports."""

    eval_batch_size: Annotated[int, Interval(ge=1, le=1 << 20), doc("Records of a batch of evaluation")] = 32
    keep: Annotated[int, Interval(ge=1), doc("Checkpoints kept beside best.pt: last.pt, and from 2 on step-<n>.pt of the newest")] = 1
    hang_seconds: Annotated[float, Interval(ge=0, le=1e8), doc("Seconds without a step after which a rank prints its stacks and ends; 0: never")] = (
        1800.0
    )
    loggers: Annotated[str, doc("Loggers beside metrics.jsonl, separated by commas: tensorboard, wandb, trackio")] = ""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run, except its folders and the machine, which are arguments of `Run`.

    network   which network is trained
    data      which batches it sees; the run sets split, rank, world_size, device, views, layout and
              dtype
    trainer   how it is trained
    run       what is kept and reported

    ValueError names the setting that is wrong.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: LoaderConfig = field(default_factory=lambda: LoaderConfig(**SOURCE))  # type: ignore[arg-type]  # LoaderConfig checks it
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        """Raise ValueError for values that no run can have."""
        for part in (self.network, self.network.ablations, self.trainer, self.run):
            check_fields(part)
        check(self.network.preset in RECIPES, f"preset must be one of {', '.join(RECIPES)}; got {self.network.preset!r}")
        switches = self.network.ablations
        changed = not (switches.overlap and switches.dropout and switches.exchange) or switches.sixth
        check(
            not (changed and self.network.preset.startswith("cifar")),
            "overlap, dropout, exchange and sixth are for AlexNet: the four-layer nets have none of them",
        )
        self.trainer.drop_shares()
        unknown = sorted(set(names_of(self.run.loggers)) - set(LOGGERS))
        check(not unknown, f"loggers must be among {', '.join(LOGGERS)}; got {', '.join(unknown)}")
        module, colon, function = self.network.model.partition(":")
        names = [*module.split("."), function]
        check(
            not self.network.model or (colon == ":" and all(map(str.isidentifier, names))),
            f"model must be package:function, got {self.network.model!r}",
        )
        parts, batch_size = self.trainer.accumulate, self.data.batch_size
        check(parts <= batch_size, f"accumulate must be at most the batch size, {batch_size}; got {parts}")
        check(self.data.crop <= 4096, f"crop must be at most 4096 pixels, got {self.data.crop}")

    @classmethod
    def from_preset(cls, preset: str = "source", **settings: Any) -> "RunConfig":  # noqa: ANN401  (any setting)
        """Return the recipe of a preset with some settings changed. Example: RunConfig.from_preset("paper", width=0.25, lr=0.02)."""
        return completed(_known({"preset": preset, **settings}))

    @property
    def alexnet(self) -> bool:
        """Whether the network is one of the five in model/networks/alexnet.py. Only these can be described and split over ranks."""
        return not self.network.model and not self.network.preset.startswith("cifar")

    def loader(self, **changes: Any) -> LoaderConfig:  # noqa: ANN401  (fields of LoaderConfig)
        """Return this run's loader configuration, for one rank on a CPU. `changes` replace its fields."""
        return replace(self.data, layout="channels_last", **changes)

    def flat(self) -> dict[str, Any]:
        """Return every setting by its own name, as stored in checkpoints and metrics.jsonl. `threads` 0 means one thread per CPU."""
        values = {}
        for name, path in paths().items():
            part: Any = self
            for step in path:
                part = getattr(part, step)
            values[name] = part
        return values | {"threads": values["threads"] or 0}

    def changed(self, **settings: Any) -> "RunConfig":  # noqa: ANN401  (any setting)
        """Return this configuration with some settings changed, by their own names."""
        return _built(self.flat() | _known(settings))

    def to_toml(self) -> str:
        """Return the text of a config file with these settings."""
        values, lines = self.flat(), list[str]()
        section: tuple[str, ...] = ()
        for name, path in paths().items():
            if path[:-1] != section:
                section = path[:-1]
                lines += ["", f"[{'.'.join(section)}]"]
            lines.append(f"{name} = {json.dumps(values[name])}")
        return "\n".join(lines).lstrip() + "\n"


@lru_cache
def paths() -> dict[str, tuple[str, ...]]:
    """Return the path of each setting in a RunConfig, by its own name: lr -> (trainer, lr)."""
    found: dict[str, tuple[str, ...]] = {}

    def add(config: type, *section: str) -> None:
        found.update({name: (*section, name) for name in hints_of(config) if not (config is LoaderConfig and name in NOT_OF_A_RUN)})
        for one in fields(config):
            if isinstance(one.type, type) and is_dataclass(one.type):
                add(one.type, *section, one.name)

    add(RunConfig)
    return found


@lru_cache
def hints() -> dict[str, Hint]:
    """Return the type, choices, limits and meaning of each setting, by its own name."""
    found = {}
    for name, path in paths().items():
        config: Any = RunConfig
        for step in path[:-1]:
            config = next(one.type for one in fields(config) if one.name == step)
        found[name] = hints_of(config)[name]
    return found


def resolve(preset: str | None, file: Path | None, options: Mapping[str, Any], assignments: tuple[str, ...]) -> RunConfig:
    """Return the configuration; ValueError names an unknown key or an invalid value."""
    return completed(collect(preset, file, options, assignments))


def completed(given: Mapping[str, Any]) -> RunConfig:
    """Return the given settings, completed by the preset's recipe. ValueError for an invalid value."""
    name = given.get("preset", NetworkConfig.preset)
    check(isinstance(name, str) and name in RECIPES, f"preset must be one of {', '.join(RECIPES)}; got {name!r}")
    return _built({**RECIPES[name], **given})


def resume(stored: RunConfig, given: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a resumed run: `stored`, with the changes in `given`.

    ValueError for a change of a setting that is not in MAY_CHANGE.
    """
    wanted = stored.changed(**given)
    before, after = stored.flat(), wanted.flat()
    fixed = [name for name in before if before[name] != after[name] and name not in MAY_CHANGE]
    check(not fixed, f"a resumed run keeps its settings: {', '.join(fixed)} cannot change (only {', '.join(MAY_CHANGE)} can)")
    return wanted


def schedule_of(config: RunConfig) -> Schedule:
    """Return the learning rate schedule of a run."""
    trainer = config.trainer
    if trainer.schedule == "plateau":
        return Plateau(trainer.lr, trainer.epochs, trainer.plateau_epochs)
    events = SCRIPT if trainer.schedule == "scripted" else drops_at(trainer.drop_shares())
    return Timetable(trainer.lr, trainer.epochs, events)


def collect(preset: str | None, file: Path | None, options: Mapping[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings that the user gave, by their own names; file < options < --set. ValueError for a key that is no setting."""
    given: dict[str, Any] = {}
    if file is not None:
        given |= _known(_unnested(read_toml(file)))
    given |= _known({name: value for name, value in (*options.items(), ("preset", preset)) if value is not None})
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        check(bool(equals), f"--set takes key=value, got {assignment!r}")
        given |= _known({name.strip(): _value(text.strip())})
    return given


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings in a file; DataError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(read_file(path, MOST_TOML).decode())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML: {error}") from error


def _unnested(values: Mapping[str, Any], *section: str) -> dict[str, Any]:
    """Return the keys of nested tables as dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _unnested(value, *section, name) if isinstance(value, dict) else {".".join((*section, name)): value}
    return flat


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their own names, with dotted and earlier names translated. ValueError for a name that is no setting."""
    dotted = {".".join(path): name for name, path in paths().items()}
    values, unknown = {}, []
    for name, value in given.items():
        own = dotted.get(name, EARLIER_NAMES.get(name, name))
        if own in paths():
            values[own] = value
        else:
            unknown.append(name)
    check(not unknown, f"no setting {', '.join(sorted(unknown))}; there are {', '.join(paths())}")
    return values


def _value(text: str) -> Any:  # noqa: ANN401  (a TOML value)
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _built(given: Mapping[str, Any]) -> RunConfig:
    """Return a RunConfig; ValueError for a value of the wrong type. An integer is accepted for a float; no other type is converted."""
    tree: dict[str, Any] = {}
    for name, value in given.items():
        *section, last = paths()[name]
        part = tree
        for step in section:
            part = part.setdefault(step, {})
        part[last] = _typed(name, value)
    return _make(RunConfig, tree)


def _make(config: type, tree: Mapping[str, Any]) -> Any:  # noqa: ANN401  (a value of the class `config`)
    """Return a dataclass whose parts are given as nested dictionaries."""
    kinds = {one.name: one.type for one in fields(config)}
    return config(**{name: _make(kinds[name], value) if isinstance(value, dict) else value for name, value in tree.items()})  # type: ignore[arg-type]  # a class


def _typed(name: str, value: Any) -> Any:  # noqa: ANN401  (from users)
    hint = hints()[name]
    if name == "drops" and isinstance(value, int | float | list):
        value = ",".join(map(str, value if isinstance(value, list) else [value]))
    if hint.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if name == "threads" and type(value) is int and value == 0:
        return None
    check(type(value) is hint.kind, f"{name} must be {KINDS[hint.kind]}, got {value!r}")
    return value
