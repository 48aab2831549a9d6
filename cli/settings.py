"""Every setting of a training run, resolved: preset < config file < options < --set. Saved with the run as config.toml."""

import json
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from alexprep.model.training.schedule import SCRIPT, Plateau, Schedule, Timetable, drops_at
from alexprep.pipeline.config import LoaderConfig, check
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.storage.uri import read_file

from .loggers import LOGGERS, names_of


@dataclass(frozen=True)
class Settings:
    """A run, completely. Paths and the machine's layout (GPUs, ranks) are not part of it."""

    preset: str = "source"
    width: float = 1.0
    activation: str = "relu"  # or "tanh"
    norm: bool = True  # response normalisation
    overlap: bool = True  # pooling windows of 3, not 2, at a stride of 2
    dropout: bool = True
    exchange: bool = True  # conv3 and fc6 see both towers
    sixth: bool = False  # a sixth convolution, over the last pooling layer ("1 CNN*")
    batch_size: int = 128  # of all ranks together
    epochs: int = 95
    steps: int = 0  # stop after so many; 0: when the schedule ends
    until: float = 0.0  # stop after an epoch whose mean training error (a share) was no more; 0: never for that reason
    lr: float = 0.01
    weight_decay: float = 0.0005
    schedule: str = "scripted"  # the authors' own; or "plateau", or "fixed"
    patience: int = 4  # plateau: epochs without a better validation error that make one
    drops: str = "0.5,0.75"  # fixed: shares of the run at which the learning rate is divided by 10
    seed: int = 0
    crop: int = 224
    mean: str = "center"
    colour: float = 0.1
    divide: float = 1.1
    mirror: bool = True  # half of the training views
    shuffle: str = "full"  # or "block": reads in large runs, for slow disks
    on_bad: str = "raise"  # or "skip": a damaged training record gives way to the next good one
    log_steps: int = 10
    checkpoint_steps: int = 1000
    checkpoint_minutes: float = 0.0  # and so long after the last one; 0: never for that reason
    keep: int = 1  # checkpoints beside best.pt: last.pt, and from 2 on step-<n>.pt of the last ones
    hang_seconds: float = 1800.0  # without a step after which a rank shows its stacks and ends; 0: never
    precision: str = "float32"  # of the arithmetic; or "bfloat16", by autocast: weights and their updates stay float32
    compile: bool = False  # by torch.compile, which needs a C++ compiler on a CPU
    accumulate: int = 1  # parts of a batch that are computed one after the other: less memory, the same step
    parallel: str = "auto"  # how several ranks share the network: data, towers or hybrid; auto: whatever sends the fewest bytes
    model: str = ""  # somebody's own network in the place of ours: package:function, called with classes=
    ema: float = 0.0  # decay of a running mean of the weights, which is then what is evaluated; 0: none
    deterministic: bool = False  # only algorithms that give the same bits again, where torch has them; others are refused
    loggers: str = ""  # beside metrics.jsonl: tensorboard, wandb, trackio, separated by commas
    gradients: str = "float32"  # in which they are averaged over ranks; or "bfloat16"
    eval_batch_size: int = 32
    threads: int = 0  # of the loader, a rank; 0: as many as it may use CPUs
    prefetch: int = 2
    form: str = "records"  # what servers (--data grpc://...) send: records; or "views", or "batches", where this machine has few CPUs

    def __post_init__(self) -> None:
        """Refuse values that no run can have."""
        check(self.preset in PRESETS, f"preset must be one of {', '.join(PRESETS)}; got {self.preset!r}")
        check(0 < self.width <= 16, f"width must be above 0 and at most 16, got {self.width}")
        check(1 <= self.epochs <= 10**6, f"epochs must be 1..1,000,000, got {self.epochs}")
        check(1 <= self.batch_size <= 1 << 20, f"batch_size must be 1..{1 << 20}, got {self.batch_size}")
        check(1 <= self.eval_batch_size <= 1 << 20, f"eval_batch_size must be 1..{1 << 20}, got {self.eval_batch_size}")
        check(self.crop <= 4096, f"crop must be at most 4096 pixels, got {self.crop}")
        check(self.steps >= 0, f"steps must not be negative, got {self.steps}")
        check(0 < self.lr < float("inf"), f"lr must be above 0, got {self.lr}")
        check(0 <= self.weight_decay <= 1, f"weight_decay must be 0..1, got {self.weight_decay}")
        check(0 <= self.until < 1, f"until must be an error, 0..1 (such as 0.25), got {self.until}")
        check(self.schedule in ("scripted", "plateau", "fixed"), f"schedule must be scripted, plateau or fixed, got {self.schedule!r}")
        switched = not (self.overlap and self.dropout and self.exchange) or self.sixth
        check(
            not (switched and self.preset.startswith("cifar")),
            "overlap, dropout, exchange and sixth are of AlexNet: the four-layer nets have none of them",
        )
        self.drop_shares()
        check(self.precision in DTYPES, f"precision must be one of {', '.join(DTYPES)}; got {self.precision!r}")
        check(self.gradients in DTYPES, f"gradients must be one of {', '.join(DTYPES)}; got {self.gradients!r}")
        check(self.parallel in PARALLEL, f"parallel must be one of {', '.join(PARALLEL)}; got {self.parallel!r}")
        check(0 <= self.ema < 1, f"ema must be a decay, 0..1 (such as 0.999), got {self.ema}")
        unknown = sorted(set(names_of(self.loggers)) - set(LOGGERS))
        check(not unknown, f"loggers must be of {', '.join(LOGGERS)}; got {', '.join(unknown)}")
        module, colon, function = self.model.partition(":")
        names = [*module.split("."), function]
        check(not self.model or (colon == ":" and all(map(str.isidentifier, names))), f"model must be package:function, got {self.model!r}")
        check(self.accumulate <= self.batch_size, f"accumulate must be at most the batch size, {self.batch_size}; got {self.accumulate}")
        check(self.activation in ("relu", "tanh"), f"activation must be relu or tanh, got {self.activation!r}")
        check(0 <= self.hang_seconds <= 1e8, f"hang_seconds must be 0..100,000,000, got {self.hang_seconds}")
        check(0 <= self.checkpoint_minutes <= 1e8, f"checkpoint_minutes must be 0..100,000,000, got {self.checkpoint_minutes}")
        for name in ("patience", "log_steps", "checkpoint_steps", "eval_batch_size", "accumulate", "keep"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}")
        check(self.threads >= 0, f"threads must not be negative, got {self.threads}")
        self.loader()  # checks the rest

    @property
    def alexnet(self) -> bool:
        """Whether the network is one of the five of alexnet.py, which can be described and split over ranks."""
        return not self.model and not self.preset.startswith("cifar")

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
            mirror=self.mirror,
            shuffle=self.shuffle,  # type: ignore[arg-type]  # LoaderConfig checks it
            on_bad=self.on_bad,  # type: ignore[arg-type]  # LoaderConfig checks it
            layout="channels_last",
            threads=self.threads or None,
            prefetch=self.prefetch,
            form=self.form,  # type: ignore[arg-type]  # LoaderConfig checks it
        )
        return replace(config, **changes)

    def to_toml(self) -> str:
        """Return a config file that gives these settings again."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in asdict(self).items())


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
MOST_TOML = 1 << 20  # bytes of a file of settings
DTYPES = ("float32", "bfloat16")
# What a run may go on with: how far, how often it is kept, and how the same steps are computed.
MAY_CHANGE = (
    *("lr", "steps", "until", "on_bad", "log_steps", "checkpoint_steps", "checkpoint_minutes", "keep", "hang_seconds", "eval_batch_size", "threads"),
    *("prefetch", "form", "precision", "compile", "accumulate", "parallel", "gradients", "deterministic", "loggers"),
)
PARALLEL = ("auto", "data", "towers", "hybrid")

CIFAR = {"mean": "pixel", "divide": 1.0, "colour": 0.0, "crop": 32, "norm": False, "schedule": "fixed", "epochs": 60, "drops": "0.75,0.9"}

# What the paper's text, the authors' code (spec: sections 1, 2 and 4) and their successors say differently; the rest is Settings' own defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "source": {},
    "paper": {"mean": "pixel", "divide": 1.0, "schedule": "plateau", "epochs": 90},
    "one-gpu": {},
    # bvlc_alexnet: 227 pixels less the mean image, batches of 256, 450,000 steps with drops at 100,000, 200,000, 300,000 and 400,000
    "caffe": {
        "mean": "pixel",
        "divide": 1.0,
        "colour": 0.0,
        "crop": 227,
        "batch_size": 256,
        "schedule": "fixed",
        "epochs": 90,
        "drops": "0.2222,0.4444,0.6667,0.8889",
    },
    "owt": {"mean": "channel", "divide": 1.0, "colour": 0.0, "schedule": "fixed", "epochs": 90, "drops": "0.3333,0.6667"},
    # the four-layer nets of sections 3.1 and 3.3, on CIFAR-10's 32 pixels; the paper gives no more of them (model/networks/cifar.py)
    "cifar": CIFAR,
    "cifar-2012": CIFAR,
}


def resolve(preset: str | None, file: Path | None, options: dict[str, Any], assignments: tuple[str, ...]) -> Settings:
    """Return the settings; ValueError names a key that does not exist or a value that cannot be."""
    return completed(collect(preset, file, options, assignments))


def completed(given: dict[str, Any]) -> Settings:
    """Return the settings that were given, and for the rest the preset's; ValueError for a value that cannot be."""
    name = given.get("preset", Settings.preset)
    check(isinstance(name, str) and name in PRESETS, f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return _typed(PRESETS[name] | given)


def resume(stored: Settings, given: dict[str, Any]) -> Settings:
    """Return the settings of a run that goes on: its own, but for what may change under way; ValueError for any other change."""
    wanted = _typed(asdict(stored) | given)
    changed = [field.name for field in fields(Settings) if getattr(stored, field.name) != getattr(wanted, field.name)]
    fixed = [name for name in changed if name not in MAY_CHANGE]
    check(not fixed, f"a resumed run keeps its settings: {', '.join(fixed)} cannot change (only {', '.join(MAY_CHANGE)} can)")
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
    given |= {name: value for name, value in (*options.items(), ("preset", preset)) if value is not None}
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
        return tomllib.loads(read_file(path, MOST_TOML).decode())
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
        check(type(value) is kind, f"{field.name} must be {KINDS[kind]}, got {value!r}")
        values[field.name] = value
    return Settings(**values)
