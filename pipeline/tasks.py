"""One shard: idempotent, single-threaded, published whole or not at all."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .config import ShardConfig
from .errors import UndecodableImage
from .images import central_square, decode, decode_record, encode
from .manifest import Shard, Sidecar, file_sha256
from .moments import MomentsCounter
from .records import Row, ShardWriter, schema
from .sources import Source
from .storage import published


class Bad(NamedTuple):
    """One source image that did not become a record."""

    split: str
    key: str
    reason: str


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    source: Source
    directory: Path
    config: ShardConfig
    classes: list[str]
    versions: dict[str, str]
    plan: str
    split: str
    index: int
    count: int
    keys: list[str]
    labels: list[int]

    @property
    def path(self) -> Path:
        """Where the shard will be."""
        return self.directory / f"{self.split}-{self.index:05}-of-{self.count:05}.arrow"


def make_shard(task: ShardTask, count: Callable[[bool], bool] = lambda _: True) -> list[Bad]:
    """Make one shard and its sidecar; return what did not make it. `count(good)` says whether to go on: if not, nothing is published."""
    facts = {"plan": task.plan, "split": task.split, "shard": task.index, "shards": task.count}
    facts |= {"parameters": asdict(task.config), "versions": task.versions}
    bad: list[Bad] = []
    labels: Counter[int] = Counter()
    moments = MomentsCounter(task.config.size)
    try:
        with published(task.path) as file:
            writer = ShardWriter(file, schema(task.config, task.classes, facts), task.config.encoding)
            for key, label in zip(task.keys, task.labels, strict=True):
                good = True
                try:
                    row, pixels = make_record(task.source, key, label, task.config)
                    writer.append(row)
                    moments.add(pixels)
                    labels[label] += 1
                except UndecodableImage as error:
                    good = False
                    bad.append(Bad(task.split, _text(key), str(error)))
                if not count(good):
                    raise _Stopped
            writer.close()
    except _Stopped:
        return bad
    shard = Shard(task.path.name, labels.total(), task.path.stat().st_size, file_sha256(task.path))
    quarantined = tuple((item.key, item.reason) for item in bad)
    Sidecar(shard, task.plan, dict(labels), quarantined, moments.moments()).write(task.directory)
    return bad


class _Stopped(Exception):
    """The job was stopped; leave nothing behind."""


def make_record(source: Source, key: str, label: int, config: ShardConfig) -> tuple[Row, Any]:
    """Return one record and its pixels uint8[s,s,3]; UndecodableImage says why there is none.

    A JPEG record is decoded once here: nothing undecodable enters a shard, and the moments count what readers will see.
    """
    text = _text(key)
    if text != key:
        raise UndecodableImage("the file's name is not UTF-8; rename it")
    image = decode(source.read(key))
    square = central_square(image, config.size)
    height, width = image.shape[:2]
    if config.encoding == "raw":
        return Row(square, label, key, width, height), square
    encoded = encode(square, config.quality)
    return Row(encoded, label, key, width, height), decode_record(encoded)


def _text(key: str) -> str:
    """Return `key` with bytes that are not UTF-8 escaped, so that it can be written down."""
    return os.fsencode(key).decode("utf-8", "backslashreplace")
