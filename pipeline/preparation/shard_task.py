"""Make one shard: idempotent, single-threaded, published whole or not at all."""

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

import numpy as np

from ..config import ShardConfig
from ..errors import UndecodableImage
from ..imaging.codec import square
from ..imaging.kernels import encode_jpeg
from ..imaging.moments import MomentsCounter
from ..shards.sidecar import Shard, Sidecar, sums_digest
from ..shards.writer import RecordRow, ShardWriter, schema
from ..sources import Listing, Place, Reader
from ..sources.listing import shown
from ..storage.files import published
from ..storage.uri import Location


class Quarantined(NamedTuple):
    """One source image that did not become a record."""

    split: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """All that a worker needs to make one shard."""

    reader: Reader
    directory: Location
    config: ShardConfig
    classes: tuple[str, ...]
    versions: dict[str, str]
    plan: str
    file: str  # name of the shard
    index: int
    count: int
    images: Listing
    first: int  # number of its first image in the whole job
    # key -> reason, for images that kill the process that decodes them
    crashers: dict[bytes, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of source images."""
        return len(self.images)


class ProgressCallbacks(NamedTuple):
    """Callbacks of a running task: `begin(n)` before the job's n-th image, `end(good)` after it.

    `end` returns whether to go on.
    """

    begin: Callable[[int], None] = lambda _: None
    end: Callable[[bool], bool] = lambda _: True


# B008 does not matter here: the default is immutable.
def make_shard(task: ShardTask, ticks: ProgressCallbacks = ProgressCallbacks()) -> list[Quarantined]:  # noqa: B008
    """Make one shard and its sidecar; return the images that were left out. If `ticks.end` returns False, nothing is published."""
    facts = {"plan": task.plan, "split": task.images.split, "shard": task.index, "shards": task.count}
    facts |= {"parameters": task.config.to_json(), "versions": task.versions}
    bad: list[Quarantined] = []
    labels: Counter[int] = Counter()
    counter = MomentsCounter(task.config.size)
    path = task.directory / task.file
    try:
        with published(path) as file:
            hashing = _Hashing(file)
            writer = ShardWriter(hashing, schema(task.config, list(task.classes), facts), task.config.encoding)
            for number, (key, label, place) in enumerate(task.images.rows(), task.first):
                ticks.begin(number)
                good = True
                try:
                    if key in task.crashers:
                        raise UndecodableImage(task.crashers[key])
                    row, pixels = make_record(task.reader, key, label, place, task.config)
                    writer.append(row)
                    counter.add(pixels)
                    labels[label] += 1
                except UndecodableImage as error:
                    good = False
                    bad.append(Quarantined(task.images.split, shown(key), str(error)))
                if not ticks.end(good):
                    raise _Stopped
            writer.close()
    except _Stopped:
        return bad
    moments = counter.moments()
    sha256 = hashing.sha256.hexdigest()
    shard = Shard(task.file, labels.total(), hashing.size, sha256, sums_digest(sha256, moments.to_json(), moments.pixel_sum.astype(np.uint32)))
    Sidecar(shard, task.plan, dict(labels), tuple((item.key, item.reason) for item in bad), moments.to_json()).write(task.directory, moments)
    return bad


class _Stopped(Exception):
    """The job was stopped; leave nothing behind."""


class _Hashing:
    """A file that computes the SHA-256 of what is written to it; an Arrow writer only appends."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.size, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: Any) -> int:  # noqa: ANN401  (any buffer)
        self.sha256.update(data)
        self.size += memoryview(data).nbytes
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self.size

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def make_record(reader: Reader, key: bytes, label: int, place: Place, config: ShardConfig) -> tuple[RecordRow, Any]:
    """Return one record and its pixels uint8[s,s,3]; UndecodableImage says why there is none.

    The pixels of a JPEG record are those after decoding: the moments count what readers will see.
    """
    try:
        text = key.decode()
    except UnicodeDecodeError as error:
        raise UndecodableImage("the file's name is not UTF-8; rename it") from error
    made = square(reader.read(place), config.size)
    if config.encoding == "raw":
        return RecordRow(made.pixels, label, text, made.width, made.height), made.pixels
    encoded = encode_jpeg(made.pixels, config.quality, config.subsampling)
    return RecordRow(encoded.data, label, text, made.width, made.height), encoded.pixels
