"""What happens in a run, as values: the events of a trainer, and the rows of metrics.jsonl."""

from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

E = TypeVar("E", bound="RunEvent")
LARGEST = 1e300  # numbers in a row are below it: no NaN, nothing that a float cannot hold


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """Something that happened; `step` is how many steps had been taken."""

    kind: ClassVar[str]
    step: int

    def row(self) -> dict[str, Any]:
        """Return the event as a row of metrics.jsonl."""
        return {"event": self.kind, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Tick(RunEvent):
    """A step was taken. It has no row."""

    kind = "tick"


@dataclass(frozen=True, kw_only=True)
class Started(RunEvent):
    """A run has begun, or goes on."""

    kind = "start"
    settings: dict[str, Any]  # by their own names
    data: str | None = None  # folder or address of the shards
    plan: str | None = None  # digest of the data set's plan
    classes: int
    parameters: int
    multiply_adds: int  # of one image; 0: not counted
    parallel: str | None = None
    device: str
    ranks: int
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepLog(RunEvent):
    """A step was taken whose numbers are logged; loss and error are those of its whole batch, with dropout."""

    kind = "step"
    epoch: int  # from 1
    loss: float
    error: float | None = None  # share of wrong answers; None: from a release that did not log it
    lr: float
    images_per_s: float  # of all ranks, since the last such event
    wait_share: float  # share of that time spent waiting for batches
    batches_ready: int | None = None  # batches that the loader held ready


@dataclass(frozen=True, kw_only=True)
class Validation(RunEvent):
    """An epoch has ended and was validated; errors are shares of 1."""

    kind = "eval"
    epoch: int  # from 1
    views: int
    count: int  # images
    top1_error: float
    top5_error: float
    loss: float
    train_error: float | None = None  # mean error of the epoch's batches; None: not all of them were seen


@dataclass(frozen=True, kw_only=True)
class Measured(RunEvent):
    """A finished run was measured on the validation images; errors are shares of 1."""

    kind = "result"
    views: int  # a record, averaged
    count: int  # images
    top1_error: float
    top5_error: float
    loss: float


_KINDS: dict[str, type[RunEvent]] = {kind.kind: kind for kind in (Started, StepLog, Validation, Measured)}
_NUMBERS = ("step", "ranks", "classes", "parameters", "multiply_adds", "epoch", "loss", "lr", "images_per_s", "wait_share", "views", "count")
_SHARES = ("top1_error", "top5_error")
_OPTIONAL = ("error", "train_error", "batches_ready")


def from_row(row: Any) -> RunEvent | None:  # noqa: ANN401  (a value out of JSON)
    """Return the event of a row of metrics.jsonl; None if it is none of ours, lacks something or has a number out of bounds."""
    name = row.get("event") if isinstance(row, dict) else None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        return None
    values = {one.name: row[one.name] for one in fields(kind) if one.name in row}
    required = {one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING}
    if not required <= set(values) or not all(_fits(name, value) for name, value in values.items()):
        return None
    return kind(**values)


def _fits(name: str, value: Any) -> bool:  # noqa: ANN401  (a value out of JSON)
    if name in ("settings", "versions"):
        return isinstance(value, dict)
    if name in _OPTIONAL and value is None:
        return True
    if name in _NUMBERS or name in _SHARES or name in _OPTIONAL:
        number = isinstance(value, int | float) and abs(value) < LARGEST
        return number and (name not in _SHARES or 0 <= value <= 1) and (name not in ("step", "epoch", "count") or value >= 0)
    return True


def of_kind(events: Iterable[object], kind: type[E]) -> list[E]:
    """Return the events of one kind, in order."""
    return [event for event in events if isinstance(event, kind)]


def last_start(events: Iterable[object]) -> Started | None:
    """Return the last Started; None without one."""
    return next(reversed(of_kind(events, Started)), None)
