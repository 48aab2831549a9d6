"""What can be chosen: a frozen dataclass a stage, checked when made.

Defaults, limits and meanings stand in the fields and nowhere else: checks, options, help texts and docs/settings.md are
made from them.
"""

import os
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, wraps
from operator import index
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import DocInfo, Interval, Unit, doc

C = TypeVar("C")
Encoding = Literal["jpeg", "raw"]
Subsampling = Literal["444", "420"]
Device = Literal["cpu", "gpu"]
Mean = Literal["pixel", "center", "channel", "none"]
Views = Literal["random", "center", "ten"]
Layout = Literal["CHW", "channels_last"]
Shuffle = Literal["full", "block", "none"]
OnBad = Literal["raise", "skip"]
Dtype = Literal["float32", "bfloat16", "float16"]
Form = Literal["records", "views", "batches"]


def check(condition: bool, message: str) -> None:  # noqa: FBT001  (reads as an assertion)
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def check_fields(config: Any) -> None:  # noqa: ANN401  (any dataclass)
    """Check every annotated field of a frozen dataclass: its type, its choices, its limits; ValueError names the field.

    A numpy integer becomes an int; an int may stand for a float.
    """
    for name, hint in hints_of(type(config)).items():  # type: ignore[arg-type]  # every class is hashable
        value, kind = getattr(config, name), hint.kind
        if value is None and hint.optional:
            continue
        if hint.choices:
            check(value in hint.choices, f"{name} must be one of {', '.join(hint.choices)}; got {value!r}")
        elif kind is int:
            check(not isinstance(value, bool) and hasattr(value, "__index__"), f"{name} must be a whole number, got {value!r}")
            value = index(value)
            object.__setattr__(config, name, value)
        elif kind is float:
            check(isinstance(value, int | float) and not isinstance(value, bool), f"{name} must be a number, got {value!r}")
        elif kind is bool:
            check(type(value) is bool, f"{name} must be true or false, got {value!r}")
        elif kind is str:
            check(isinstance(value, str | os.PathLike), f"{name} must be text, got {value!r}")
        if hint.limits is not None:
            check(_within(value, hint.limits), f"{name} must be {limits_in_words(hint.limits, hint.unit)}, got {value}")


class Hint(NamedTuple):
    """What the annotation of a field says."""

    kind: type  # int, float, bool or str
    optional: bool  # None is a value too
    choices: tuple[str, ...]  # of a Literal
    limits: Interval | None
    unit: str
    meaning: str


@lru_cache
def hints_of(config: Hashable) -> dict[str, Hint]:
    """Return the hint of each annotated field of a dataclass, by name; fields that are dataclasses themselves are left out."""
    hints = {}
    for name, annotation in get_type_hints(config, include_extras=True).items():
        if get_origin(annotation) is not Annotated:
            continue
        kind, *extras = get_args(annotation)
        parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        plain = next(part for part in parts if part is not NoneType)
        choices = get_args(plain) if get_origin(plain) is Literal else ()
        limits = next((extra for extra in extras if isinstance(extra, Interval)), None)
        meaning = next((extra.documentation for extra in extras if isinstance(extra, DocInfo)), "")
        unit = next((extra.unit for extra in extras if isinstance(extra, Unit)), "")
        hints[name] = Hint(str if choices else plain, NoneType in parts, choices, limits, unit, meaning)
    return hints


def _within(value: Any, limits: Interval) -> bool:  # noqa: ANN401  (a number)
    """Tell whether a number keeps limits; NaN keeps none."""
    return bool(
        (limits.ge is None or value >= limits.ge)
        and (limits.gt is None or value > limits.gt)
        and (limits.le is None or value <= limits.le)
        and (limits.lt is None or value < limits.lt)
    )


def limits_in_words(limits: Interval, unit: str = "") -> str:
    """Return limits as a message has them: "8..4096 pixels", "at least 1", "above 0 and at most 16"."""
    low, high = limits.ge if limits.ge is not None else limits.gt, limits.le if limits.le is not None else limits.lt
    if limits.ge is not None and limits.le is not None:
        words = f"{_number(low)}..{_number(high)}"
    else:
        parts = []
        if low is not None:
            parts.append(f"at least {_number(low)}" if limits.ge is not None else f"above {_number(low)}")
        if high is not None and high != float("inf"):
            parts.append(f"at most {_number(high)}" if limits.le is not None else f"below {_number(high)}")
        words = " and ".join(parts)
    return f"{words} {unit.removesuffix('s') if words.endswith(' 1') else unit}".rstrip()


def _number(value: Any) -> str:  # noqa: ANN401  (an int or a float)
    """Return a number with separators where it is long; 2**64-1 as that."""
    if value == (1 << 64) - 1:
        return "2**64-1"
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}" if value >= 10**4 and value & (value - 1) else str(value)


def renamed(old: str, new: str) -> Callable[[type[C]], type[C]]:
    """Return a decorator of a dataclass that takes a field by its earlier name too, and warns."""

    def decorate(config: type[C]) -> type[C]:
        make = config.__init__

        @wraps(make)
        def init(self: C, *arguments: Any, **values: Any) -> None:  # noqa: ANN401  (the fields)
            if old in values:
                warnings.warn(f"{config.__name__}: {old} is now {new}", DeprecationWarning, stacklevel=2)
                values[new] = values.pop(old)
            make(self, *arguments, **values)

        config.__init__ = init  # type: ignore[method-assign, assignment]
        setattr(config, old, property(lambda self: getattr(self, new)))
        return config

    return decorate


@dataclass(frozen=True)
class ShardConfig:
    """How source images become records. All of it is part of the plan: other values give other bytes."""

    # paper, section 2: 256 pixels
    size: Annotated[int, Interval(ge=8, le=4096), Unit("pixels"), doc("Pixels a side of a record")] = 256
    encoding: Annotated[Encoding, doc("Encoding of a record: JPEG or plain pixels")] = "jpeg"
    # the 2012 tools wrote quality 95 too
    quality: Annotated[int, Interval(ge=1, le=100), doc("Quality of JPEG records")] = 95
    # 4096 are about 170 MB of JPEG records, 800 MB of raw ones.
    # The per-pixel sums of a shard are uint32: 255 * 2**24 is the last that fits.
    records_per_shard: Annotated[int, Interval(ge=1, le=1 << 20), doc("Records of a shard, at most")] = 4096
    # at full resolution, PCA colour has something to work on
    subsampling: Annotated[Subsampling, doc("Colour of JPEG records: 444 at full size, 420 at half")] = "444"

    def __post_init__(self) -> None:
        """Refuse values that no shard can have; ValueError."""
        check_fields(self)

    def to_json(self) -> dict[str, Any]:
        """Return the parameters as plans, manifests and shards have them.

        What is younger than format version 1 is left out while it is as it always was: the plan, and with it repair and append,
        of an older data set stay what they were.
        """
        value = asdict(self)
        if self.subsampling == "444":
            del value["subsampling"]
        return value


@renamed("patience", "server_patience")
@dataclass(frozen=True)
class LoaderConfig:
    """Which batches a `Loader` makes, and how; docs/settings.md lists the fields."""

    split: Annotated[str, doc('Split of the data set: "train", "val", ...')] = "train"
    batch_size: Annotated[int, Interval(ge=1, le=1 << 20), doc("Records of a batch, of all ranks together")] = 128
    seed: Annotated[
        int, Interval(ge=0, le=(1 << 64) - 1), doc("Seed of order, crops, mirrors and colours (in a run, of weights and dropout too)")
    ] = 0
    rank: Annotated[int, Interval(ge=0), doc("Number of this process among world_size, from 0")] = 0
    world_size: Annotated[int, Interval(ge=1), doc("Processes that share each batch")] = 1
    device: Annotated[Device, doc("Device that makes the views and holds the batches")] = "cpu"
    crop: Annotated[int, Interval(ge=1), Unit("pixels"), doc("Pixels a side of a view")] = 224
    views: Annotated[
        Views | None,
        doc(
            "Views of a record. random: shuffled, random crop, mirror and colour, last partial batch dropped; center: the centre crop; ten: "
            "four corners, centre and their mirrors. The last two go once through the split in stored order. None: random for train, else center"
        ),
    ] = None
    mean: Annotated[
        Mean,
        doc(
            "Mean that is subtracted. pixel: the mean image at the crop's own place (the paper's text); center: the mean image's centre crop "
            "from every crop (the 2012 code); channel: one number a channel; none"
        ),
    ] = "pixel"
    # paper, section 4.1
    colour: Annotated[float, Interval(ge=0, le=1000), doc("Standard deviation of the PCA colour alphas; 0: no colour shift")] = 0.1
    # 2012 code: 1.1
    divide: Annotated[float, Interval(ge=1e-3, le=1e6), doc("Divisor of random views while colour is on")] = 1.0
    mirror: Annotated[bool, doc("Mirroring of half of the random views")] = True
    shuffle: Annotated[
        Shuffle,
        doc("Order of random views. block: runs of 512 records, 16 runs mixed at a time, for slow disks and stores; none: stored order each epoch"),
    ] = "full"
    on_bad: Annotated[
        OnBad,
        doc("Damaged records. raise: stop and name the record; skip: take the next good record and warn (random views only)"),
    ] = "raise"
    layout: Annotated[Layout, doc("Memory layout of a batch")] = "CHW"
    dtype: Annotated[Dtype, doc("Number format of the images")] = "float32"
    threads: Annotated[int | None, Interval(ge=1, le=1024), doc("Threads that make batches; None: one for each CPU of this process")] = None
    prefetch: Annotated[int, Interval(ge=1, le=64), doc("Batches made ahead")] = 2
    device_id: Annotated[int | None, doc("Number of the GPU; None: torch's current one")] = None
    cache: Annotated[str | None, doc("Local folder for the shards of an object store; any number of ranks share it")] = None
    cache_size: Annotated[int, Interval(ge=1), Unit("bytes"), doc("Bytes of that folder, at most")] = 100 << 30
    form: Annotated[
        Form,
        doc(
            "What a server (grpc://...) sends. records: stored bytes, everything else is done here; views: cut out and mirrored, uint8; "
            "batches: finished"
        ),
    ] = "records"
    server_patience: Annotated[
        float, Interval(ge=1, le=86400), Unit("seconds"), doc("Seconds without an answer of any server after which the loader fails")
    ] = 120.0

    def __post_init__(self) -> None:
        """Refuse values that no loader can have; ValueError."""
        check_fields(self)
        check(self.rank < self.world_size, f"rank must be 0..{self.world_size - 1} (world_size is {self.world_size}), got {self.rank}")
        check(self.batch_size >= self.world_size, f"batch_size counts all ranks and must be at least {self.world_size}, got {self.batch_size}")
        check(self.on_bad == "raise" or self.view == "random", "on_bad=skip would count a record twice in an evaluation; use alexprep repair")
        check(
            self.cache is None or ("://" not in (cache := os.fspath(self.cache)) and cache != ""), f"cache must be a local folder, got {self.cache!r}"
        )
        if self.view == "random":
            check(
                self.batch_size % self.world_size == 0,
                f"batch_size counts all ranks and must be divisible by world_size: {self.batch_size} by {self.world_size}",
            )

    @property
    def view(self) -> Views:
        """The views with the default filled in."""
        return self.views or ("random" if self.split == "train" else "center")


class LoaderOptions(TypedDict, total=False):
    """The fields of LoaderConfig as keywords of `Loader`, for editors and type checkers; a test holds both together."""

    split: str
    batch_size: int
    seed: int
    rank: int
    world_size: int
    device: Device
    crop: int
    views: Views | None
    mean: Mean
    colour: float
    divide: float
    mirror: bool
    shuffle: Shuffle
    on_bad: OnBad
    layout: Layout
    dtype: Dtype
    threads: int | None
    prefetch: int
    device_id: int | None
    cache: str | None
    cache_size: int
    form: Form
    server_patience: float


def check_known(options: Mapping[str, Any]) -> None:
    """Raise TypeError for a keyword that is no option of a loader; it names the nearest one."""
    from difflib import get_close_matches  # late: only a mistake needs it

    known = [one.name for one in fields(LoaderConfig)]
    for name in options:
        if name not in known and name != "patience":
            near = get_close_matches(name, known, 1)
            raise TypeError(f"Loader has no option {name!r}" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"))
