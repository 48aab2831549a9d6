"""Define the protocol of `alexprep serve` and its clients (server.py, remote_steps.py).

A trainer sends a ticket; the answer is an Arrow table. A ticket is JSON:

    {"version": 1, "data": digest, "form": "views", "step": 17,
     "config": {"split": "train", "seed": 0, ...}}

The answer is a pure function of the ticket and the data set, so every server of the same shards
gives the same bits. Steps are counted from the start of epoch 0, so a step implies its epoch. Any
Flight client can send a ticket; docs/service.md has an example.
"""

import hashlib
import json
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa

from ..batches.views import windows
from ..config import Form, LoaderConfig
from ..errors import DataError
from ..shards.manifest import Manifest
from ..shards.stats import Stats

VERSION = 1
MOST_BYTES = 4096  # bytes of a ticket, at most
MOST_STEPS = 1 << 62  # limit of a step, exclusive; no run has more, and epochs fit into 64 bits
CHUNK = 4 << 20  # bytes of one message, about: a server holds one message of an answer in memory
# Bytes of one message of records, about. A server holds none in memory: records are sent from the
# mapped shards. The usual 128 JPEGs fit into one message.
STORED = 8 << 20
LARGEST = 1 << 30  # bytes of a message, at most: Arrow cannot send 2 GiB
# Fields of LoaderConfig that change the numbers of a batch; a ticket has no other ones.
FIELDS = (
    *("split", "batch_size", "seed", "rank", "world_size", "crop", "views", "mean", "colour", "divide", "mirror", "shuffle", "on_bad"),
    *("layout", "dtype"),
)
_KINDS = {field.name: type(field.default) for field in fields(LoaderConfig) if field.default is not MISSING}
# Arrow has no bfloat16: its bits are sent as uint16.
_NUMBERS = {"float32": pa.float32(), "float16": pa.float16(), "bfloat16": pa.uint16()}


OTHER_DATA = "this server has another data set, or other statistics of it"


class WrongTicket(DataError):
    """A ticket that this server cannot answer; a retry would fail too."""


@dataclass(frozen=True)
class Ticket:
    """A request for one step of one rank."""

    data: str  # `digest` of the data set
    form: Form
    step: int
    config: LoaderConfig

    def to_bytes(self) -> bytes:
        """Return the ticket as JSON."""
        config = {name: getattr(self.config, name) for name in FIELDS}
        return json.dumps({"version": VERSION, "data": self.data, "form": self.form, "step": self.step, "config": config}).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Ticket":
        """Return the ticket in `data`; WrongTicket says what is wrong with it."""
        if len(data) > MOST_BYTES:
            raise WrongTicket(f"a ticket may have at most {MOST_BYTES} bytes, got {len(data)}")
        try:
            value = json.loads(data)
            if not isinstance(value, dict) or set(value) != {"version", "data", "form", "step", "config"}:
                raise ValueError("it must have exactly version, data, form, step and config")
            if type(value["version"]) is not int or value["version"] != VERSION:
                raise ValueError(f"its version is {value['version']!r}; this release answers version {VERSION}")
            if not isinstance(value["data"], str) or value["form"] not in get_args(Form):
                raise ValueError(f"data must be a digest, and form one of {', '.join(get_args(Form))}")
            if type(value["step"]) is not int or not 0 <= value["step"] < MOST_STEPS:
                raise ValueError("step must be a whole number of steps")
            return cls(value["data"], value["form"], value["step"], _config(value["config"]))
        # json's own errors are ValueErrors.
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise WrongTicket(f"this is no ticket: {error}") from error


def _config(value: Any) -> LoaderConfig:  # noqa: ANN401  (from strangers)
    if not isinstance(value, dict) or not set(value) <= set(FIELDS):
        raise ValueError(f"config may have only {', '.join(FIELDS)}")
    if lists := [name for name, given in value.items() if isinstance(given, list | dict)]:
        raise ValueError(f"{lists[0]} cannot be {value[lists[0]]!r}")
    return _checked(**value)


# Cached, since a trainer sends the same config in every ticket; typed, since True == 1 == 1.0.
@lru_cache(maxsize=1024, typed=True)
def _checked(**values: Any) -> LoaderConfig:  # noqa: ANN401  (from strangers)
    for name, given in values.items():
        kind = (int, float) if _KINDS[name] is float else str if name == "views" else _KINDS[name]
        if not (given is None and name == "views") and (not isinstance(given, kind) or (kind is not bool and isinstance(given, bool))):
            raise ValueError(f"{name} cannot be {given!r}")
    return LoaderConfig(**values)


def digest(manifest: Manifest, stats: Stats) -> str:
    """Return the SHA-256 of all that determines batches.

    This is the plan, parameters, classes, shards and statistics. The shards enter by the SHA-256
    that the manifest has for each.
    """
    shards = {name: [(shard.file, shard.rows, shard.sha256) for shard in split.shards] for name, split in manifest.splits.items()}
    facts = json.dumps([manifest.plan, manifest.config.to_json(), list(manifest.classes), shards], sort_keys=True)
    found = hashlib.sha256(facts.encode())
    for array in (stats.colours.mean, stats.colours.eigenvalues, stats.colours.eigenvectors, stats.mean_image):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class ViewShape(NamedTuple):
    """The type of an answer's images, and how many go into a message."""

    column: pa.DataType
    rows: int  # records in one message


def shape_of(form: Form, manifest: Manifest, config: LoaderConfig) -> ViewShape:
    """Return the type of the column `image`, and the rows of a message.

    "records": the JPEG or the pixels as bytes (binary_view: sent from the mapped shard, without a
    copy). "views": uint8[c,c,3], or [10,c,c,3] for ten views. "batches": numbers of `dtype` in the
    config's layout, [3,c,c] or [c,c,3]; ten views put a 10 before it. A message has about `CHUNK`
    bytes, `STORED` for "records". Raises WrongTicket for a crop that does not fit.
    """
    size, crop = manifest.config.size, config.crop
    if crop > size:
        raise WrongTicket(f"crop {crop} does not fit into records of {size} pixels")
    if form == "records":
        split = manifest.split(config.split)
        usual = STORED * split.records // max(1, split.bytes)
        # A JPEG is never twice as large as its pixels, unless it is tiny.
        return ViewShape(pa.binary_view(), max(1, min(usual, LARGEST // (6 * size * size))))
    number = _NUMBERS[config.dtype] if form == "batches" else pa.uint8()
    sides: tuple[int, ...] = (3, crop, crop) if form == "batches" and config.layout == "CHW" else (crop, crop, 3)
    if config.view == "ten":
        sides = (len(windows("ten", size - crop)), *sides)
    bytes_each = int(np.prod(sides)) * number.bit_width // 8
    return ViewShape(pa.fixed_shape_tensor(number, sides), max(1, CHUNK // bytes_each))


def schema(form: Form, column: pa.DataType) -> pa.Schema:
    """Return the columns of an answer: image, label, record, and shift except for "records".

    `shift` is the colour that has yet to be added to a view's pixels (float32[3]).
    """
    shift = [] if form == "records" else [("shift", pa.list_(pa.float32(), 3))]
    return pa.schema([("image", column), ("label", pa.int64()), ("record", pa.int64()), *shift])
