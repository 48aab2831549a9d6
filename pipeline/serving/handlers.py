"""Answer requests: the records, views or batch of a ticket's step, and the data set's files.

In:  a ticket.    Out: Arrow record batches of about 4 MiB (8 MiB for records).

A record batch is made when the previous one has been taken, so a slow client holds at most one.
"""

import hashlib
import io
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Shaped, UInt8

from ..arrow import numbers
from ..batches.sampler import Sampler
from ..batches.steps import StepSource, cache_for
from ..batches.views import StepInput, Window, placed, windows
from ..config import LoaderConfig
from ..errors import DataError, UndecodableImage
from ..imaging.codec import decode_record
from ..imaging.kernels import decode_region, jpeg_header
from ..shards.cache import ShardCache
from ..shards.manifest import MANIFEST, Manifest, read_manifest
from ..shards.reader import Records
from ..shards.sidecar import files_of
from ..shards.stats import MEAN_IMAGE, STATS, Stats, content, stats_for
from ..storage.files import MOST_JSON
from ..storage.flight_client import MOST_READ
from ..storage.uri import RemotePath, present, read_file
from .protocol import OTHER_DATA, Ticket, ViewShape, WrongTicket, digest, schema, shape_of

log = logging.getLogger("alexprep.serve")
T = TypeVar("T")
STREAMS = 256  # configurations kept, each with its sampler
PIECE = 1 << 20  # bytes of a file in one message
UNMAP_BYTES = 256 << 20  # bytes of records read between releases of mapped memory
MOST_ROWS = 1 << 16  # records of one answer, at most


class RequestHandler:
    """Answers requests from one folder of shards. Thread-safe."""

    def __init__(self, directory: str, cache: str | None = None, cache_size: int = 100 << 30) -> None:
        """Open the data set; DataError if it is incomplete. `cache` is a local folder for the shards of an object store."""
        self.manifest = read_manifest(directory)
        self._cached: dict[str, Any] = {} if cache is None else {"cache": cache, "cache_size": cache_size}
        self._lock = threading.RLock()
        self._splits = {name: self._open(name) for name in self.manifest.splits}
        self._streams: OrderedDict[tuple[str, LoaderConfig], _Stream] = OrderedDict()
        stats = self._splits[self.manifest.main_split].stats
        made = json.dumps(content(stats, self.manifest, pca=True)).encode()
        self._made = {MANIFEST: read_file(self.manifest.directory / MANIFEST, MOST_JSON), STATS: made, MEAN_IMAGE: _npy(stats.mean_image)}
        self._sizes = self._listed()
        # Identity of the data set and its statistics.
        self.identity = hashlib.sha256(b"".join(self._made.values())).hexdigest()

    @property
    def digests(self) -> dict[str, str]:
        """The value that a ticket must have as `data`, by split."""
        return {name: split.digest for name, split in self._splits.items()}

    def to(self, ticket: Ticket) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the schema of the answer and its record batches.

        Raises WrongTicket if there is no such step, or the ticket is for another data set.
        """
        split = self._splits.get(ticket.config.split)
        if split is None:
            raise WrongTicket(f"there is no split {ticket.config.split!r} here, only {', '.join(self._splits)}")
        if ticket.data != split.digest:
            raise WrongTicket(OTHER_DATA)
        if ticket.config.batch_size // ticket.config.world_size > MOST_ROWS:
            raise WrongTicket(
                f"a rank's part of a batch may have at most {MOST_ROWS} records, got {ticket.config.batch_size // ticket.config.world_size}"
            )
        stream = self._stream(ticket, split)
        if stream.steps.plan.steps == 0:
            raise WrongTicket("this rank has no step: there are fewer records than ranks")
        return stream.columns, self._rows(stream, ticket.step)

    def files(self) -> dict[str, int]:
        """Return the size in bytes of each file that `read` can read, by name."""
        return self._sizes

    def read(self, name: str, offset: int, length: int) -> Iterator[bytes]:
        """Return `length` bytes of a file from `offset` on, in pieces.

        Raises WrongTicket if the data set has no such file, or the range is too long or leaves the file.
        """
        if name not in self._sizes:
            raise WrongTicket("the data set has no such file")
        if not (0 <= offset <= offset + length <= self._sizes[name] and length <= MOST_READ):
            raise WrongTicket(f"read takes at most {MOST_READ} bytes at once, and offset and length must lie within the file")
        return self._pieces(name, offset, length)

    def _pieces(self, name: str, offset: int, length: int) -> Iterator[bytes]:
        made = self._made.get(name)
        path = self.manifest.directory / name
        with io.BytesIO(made) if made is not None else path.open_random() if isinstance(path, RemotePath) else path.open("rb") as file:
            file.seek(offset)
            for at in range(0, length, PIECE):
                yield bytes(file.read(min(PIECE, length - at)))

    def cached_bytes(self) -> int:
        """Return the bytes of all shards in the cache folder, of any process."""
        folder = self._cached.get("cache")
        return sum(size for name, size in present(Path(folder)).items() if name.endswith(".arrow")) if folder else 0

    def close(self) -> None:
        """Stop the downloads of shards."""
        for split in self._splits.values():
            if split.cache is not None:
                split.cache.close()

    def _listed(self) -> dict[str, int]:
        there = present(self.manifest.directory)
        names = [name for split in self.manifest.splits.values() for shard in split.shards for name in files_of(shard.file)]
        return {name: len(content) for name, content in self._made.items()} | {name: there[name] for name in names if name in there}

    def _open(self, name: str) -> "_Split":
        # The options that need the most space in a cache.
        config = LoaderConfig(split=name, views="random", shuffle="full", **self._cached)
        cache = cache_for(self.manifest, config)
        if cache is not None:  # the whole split fits
            for shard in self.manifest.split(name).shards:
                cache.ask(self.manifest.directory / shard.file, shard)  # type: ignore[arg-type]  # only remote shards have a cache
        stats = stats_for(self.manifest, name)
        each = sum(shard.bytes for shard in self.manifest.split(name).shards) // max(1, self.manifest.split(name).records)
        return _Split(Records(self.manifest, name, cache=cache), cache, stats, digest(self.manifest, stats), each)

    def _stream(self, ticket: Ticket, split: "_Split") -> "_Stream":
        """Return the stream for tickets of this form and configuration, made if it is new.

        Beyond `STREAMS`, the least recently used stream is dropped.
        """
        key = (ticket.form, ticket.config)
        with self._lock:
            stream = self._streams.get(key)
        if stream is None:  # made outside the lock, as it may import torch
            shape = shape_of(ticket.form, self.manifest, ticket.config)
            try:
                Sampler.of(len(split.records), ticket.config)
            except (DataError, ValueError) as error:  # the batch is larger than the split
                raise WrongTicket(str(error)) from error
            steps = StepSource(self.manifest, replace(ticket.config, **self._cached), split.stats, split.records)
            steps.tell = lambda text: log.warning("damaged", extra={"reason": text})
            stream = _Stream(steps, _maker(ticket, self.manifest, split.stats), split, shape, schema(ticket.form, shape.column))
        with self._lock:
            stream = self._streams.setdefault(key, stream)
            self._streams.move_to_end(key)
            while len(self._streams) > STREAMS:
                self._streams.popitem(last=False)
            return stream

    def _rows(self, stream: "_Stream", step: int) -> Iterator[pa.RecordBatch]:
        epoch, records = stream.steps.plan(step)
        kind, rows = stream.shape
        for low in range(0, len(records), rows):
            some = records[low : low + rows]
            if stream.images is None:
                located = stream.split.read(partial(stream.split.records.located, some), len(some))
                arrays = [located.strings(), numbers(located.labels()), numbers(some)]
            else:
                inputs, images = stream.make(epoch, some)
                column = pa.ExtensionArray.from_storage(kind, _flat(images, kind.storage_type))
                arrays = [
                    column,
                    numbers(inputs.labels),
                    numbers(inputs.records),
                    pa.FixedSizeListArray.from_arrays(numbers(inputs.shift.ravel()), 3),
                ]
            yield pa.RecordBatch.from_arrays(arrays, schema=stream.columns)


@dataclass
class _Split:
    """An open split of the data set."""

    records: Records
    cache: ShardCache | None
    stats: Stats
    digest: str
    each: int  # mean bytes of a record
    lock: threading.Lock = field(default_factory=threading.Lock)  # guards `records`
    given: int = 0  # bytes read since the last `unmap`

    def read(self, read: Callable[[], T], count: int) -> T:
        """Return `read()`, which reads `count` records, under the lock.

        No other thread opens or unmaps shards meanwhile. The shards are unmapped every UNMAP_BYTES.
        """
        with self.lock:
            self.given += count * self.each
            if self.given > UNMAP_BYTES:
                self.given = 0
                self.records.unmap()
            return read()


@dataclass(frozen=True)
class _Stream:
    """Answers the tickets of one form and configuration."""

    steps: StepSource
    images: Callable[[StepInput], Any] | None  # makes the images to send; None: records as stored
    split: _Split
    shape: ViewShape
    columns: pa.Schema

    def make(self, epoch: int, records: Shaped[np.ndarray, "b"]) -> tuple[StepInput, Any]:
        """Return the step input of `records`, and the images to send. Damaged records are replaced, or DataError names them."""
        for _ in range(2):
            inputs = self.steps.drawn(epoch, self.split.read(partial(self.steps.stored, records), len(records)))
            assert self.images is not None
            try:
                return inputs, self.images(inputs)
            except UndecodableImage as error:
                with self.split.lock:
                    damaged = {number: reason for number in inputs.records.tolist() if (reason := self.steps.records.damage(number))}
                    self.steps.replace(damaged, error)
        raise DataError("the substitutes of damaged records are damaged too; alexprep repair makes their shards again")


def _maker(ticket: Ticket, manifest: Manifest, stats: Stats) -> Callable[[StepInput], Any] | None:
    """Return the function that makes the images to send from a step input; None for records."""
    raw = manifest.config.encoding == "raw"
    if ticket.form == "records":
        return None
    if ticket.form == "views":
        fixed = [] if ticket.config.view == "random" else windows(ticket.config.view, manifest.config.size - ticket.config.crop)
        return lambda inputs: cut_out(inputs, fixed, ticket.config.crop, manifest.config.size, raw=raw)
    try:
        from ..batches.cpu_engine import ViewMaker  # imported late: nothing else here needs torch
    except ImportError as error:
        raise WrongTicket(f"this server cannot make batches: {error.name} is not installed there; ask for views or records") from error
    maker = ViewMaker(ticket.config, manifest, stats)
    ten = ticket.config.view == "ten"
    return lambda inputs: maker.views(inputs) if ten else maker.views(inputs)[:, 0]


def cut_out(inputs: StepInput, fixed: list[Window], crop: int, size: int, *, raw: bool) -> UInt8[np.ndarray, "..."]:
    """Return the views of records as pixels, cropped and mirrored: uint8[b,c,c,3].

    With several fixed windows the shape is [b,v,c,c,3]. Raises UndecodableImage for a damaged record.
    """
    out = np.empty((len(inputs.images), max(1, len(fixed)), crop, crop, 3), np.uint8)
    for image, its_windows, its_views in zip(inputs.images, placed(inputs, fixed), out, strict=True):
        pixels, y, x = (image, 0, 0) if raw else _decoded(image, its_windows, crop, size)
        for view, window in zip(its_views, its_windows, strict=True):
            part = pixels[window.top - y : window.top - y + crop, window.left - x : window.left - x + crop]
            if window.flip:
                cv2.flip(part, 1, dst=view)
            else:
                view[...] = part
    return out if len(fixed) > 1 else out[:, 0]


def _decoded(image: UInt8[np.ndarray, "n"], its_windows: list[Window], crop: int, size: int) -> tuple[UInt8[np.ndarray, "h w 3"], int, int]:
    """Return the part of a record that its windows need, and the part's offset (y, x).

    Pixels are the same as those of `kernels.render`, and the same records are refused.
    """
    top, left = (its_windows[0].top, its_windows[0].left) if len(its_windows) == 1 else (0, 0)
    side = crop if len(its_windows) == 1 else size
    with suppress(ValueError):
        if jpeg_header(image)[:2] == (size, size):
            part = decode_region(image, (left, top, left + side, top + side))
            if part is not None:
                return part, top, left
    return decode_record(image, size), 0, 0


def _flat(images: Shaped[np.ndarray, "b ..."], kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(numbers(images.reshape(-1)), type=kind)


def _npy(array: Shaped[np.ndarray, "..."]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
