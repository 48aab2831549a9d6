"""Every setting of a training run, resolved: preset < config file < options < --set. Saved with the run as config.toml."""

import json
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from alexprep.model.schedule import SCRIPT, Plateau, Schedule, Timetable, drops_at
from alexprep.pipeline.config import LoaderConfig, check
from alexprep.pipeline.errors import DataError


@dataclass(frozen=True)
class Settings:
    """A run, completely. Paths and the machine's layout (GPUs, ranks) are not part of it."""

    preset: str = "source"
    width: float = 1.0
    batch_size: int = 128  # of all ranks together
    epochs: int = 95
    steps: int = 0  # stop after so many; 0: when the schedule ends
    lr: float = 0.01
    schedule: str = "scripted"  # the authors' own; or "plateau", or "fixed"
    patience: int = 4  # plateau: epochs without a better validation error that make one
    drops: str = "0.5,0.75"  # fixed: shares of the run at which the learning rate is divided by 10
    seed: int = 0
    crop: int = 224
    mean: str = "center"
    colour: float = 0.1
    divide: float = 1.1
    shuffle: str = "full"  # or "block": reads in large runs, for slow disks
    on_bad: str = "raise"  # or "skip": a damaged training record gives way to the next good one
    log_steps: int = 10
    checkpoint_steps: int = 1000
    eval_batch_size: int = 32
    threads: int = 0  # of the loader, a rank; 0: as many as it may use CPUs
    prefetch: int = 2

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        check(self.preset in PRESETS, f"preset must be one of {', '.join(PRESETS)}; got {self.preset!r}")
        check(0 < self.width <= 16, f"width must be above 0 and at most 16, got {self.width}")
        check(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        check(self.steps >= 0, f"steps must not be negative, got {self.steps}")
        check(0 < self.lr < float("inf"), f"lr must be above 0, got {self.lr}")
        check(self.schedule in ("scripted", "plateau", "fixed"), f"schedule must be scripted, plateau or fixed, got {self.schedule!r}")
        self.drop_shares()
        for name in ("patience", "log_steps", "checkpoint_steps", "eval_batch_size"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        check(self.threads >= 0, f"threads must not be negative, got {self.threads}")
        self.loader()  # checks the rest

    def drop_shares(self) -> list[float]:
        """Return `drops` as numbers; ValueError if they are not shares of 1."""
        try:
            shares = [float(word) for word in self.drops.split(",") if word.strip()]
        except ValueError:
            shares = [-1.0]
        check(all(0 < share <= 1 for share in shares), f"drops are shares of the run, such as 0.5,0.75; got {self.drops!r}")
        return shares

    def loader(self, **changes: Any) -> LoaderConfig:  # noqa: ANN401  (fields of LoaderConfig)
        """Return the loader's part, for one rank on a CPU unless `changes` say more."""
        config = LoaderConfig(
            batch_size=self.batch_size,
            seed=self.seed,
            crop=self.crop,
            mean=self.mean,  # type: ignore[arg-type]  # LoaderConfig checks it
            colour=self.colour,
            divide=self.divide,
            shuffle=self.shuffle,  # type: ignore[arg-type]  # LoaderConfig checks it
            on_bad=self.on_bad,  # type: ignore[arg-type]  # LoaderConfig checks it
            layout="channels_last",
            threads=self.threads or None,
            prefetch=self.prefetch,
        )
        return replace(config, **changes)

    def to_toml(self) -> str:
        """Return a config file that gives these settings again."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(self).items())


# What the paper's text and the authors' code (spec: sections 1, 2 and 4) say differently; the rest is Settings' own defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "source": {},
    "paper": {"mean": "pixel", "divide": 1.0, "schedule": "plateau", "epochs": 90},
}


def resolve(preset: str | None, file: Path | None, options: dict[str, Any], assignments: tuple[str, ...]) -> Settings:
    """Return the settings; ValueError names a key that does not exist or a value that cannot be."""
    given = collect(preset, file, options, assignments)
    name = given.get("preset", Settings.preset)
    check(isinstance(name, str) and name in PRESETS, f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return _typed(PRESETS[name] | given)


def resume(stored: Settings, given: dict[str, Any]) -> Settings:
    """Return the settings of a run that goes on: its own, but for what may change under way; ValueError for any other change."""
    wanted = _typed(asdict(stored) | given)
    changed = [field.name for field in fields(Settings) if getattr(stored, field.name) != getattr(wanted, field.name)]
    fixed = [name for name in changed if name not in ("lr", "steps", "on_bad")]
    check(not fixed, f"a resumed run keeps its settings: {', '.join(fixed)} cannot change (only lr, steps and on_bad can)")
    return wanted


def schedule_of(settings: Settings) -> Schedule:
    """Return the schedule of a run."""
    if settings.schedule == "plateau":
        return Plateau(settings.lr, settings.epochs, settings.patience)
    events = SCRIPT if settings.schedule == "scripted" else drops_at(settings.drop_shares())
    return Timetable(settings.lr, settings.epochs, events)


def collect(preset: str | None, file: Path | None, options: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """Return what the user gave, file < options < --set; ValueError for a key that is no setting."""
    given: dict[str, Any] = {}
    if file is not None:
        given |= read_toml(file)
    given |= {name: value for name, value in {**options, "preset": preset}.items() if value is not None}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        check(bool(equals), f"--set takes key=value, got {assignment!r}")
        given[name.strip()] = _value(text.strip())
    known = [field.name for field in fields(Settings)]
    unknown = sorted(set(given) - set(known))
    check(not unknown, f"no setting {', '.join(unknown)}; there are {', '.join(known)}")
    return given


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings in a file; DataError if it is no TOML."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not TOML: {error}") from error


def _value(text: str) -> Any:  # noqa: ANN401  (a TOML value)
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def _typed(given: dict[str, Any]) -> Settings:
    """Return Settings of the fields' own types: an integer may stand for a float, nothing else for anything."""
    values = {}
    for field in fields(Settings):
        if field.name not in given:
            continue
        value, kind = given[field.name], type(field.default)
        if field.name == "drops" and isinstance(value, int | float | list):
            value = ",".join(map(str, value if isinstance(value, list) else [value]))
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        check(type(value) is kind, f"{field.name} must be a {kind.__name__}, got {value!r}")
        values[field.name] = value
    return Settings(**values)
