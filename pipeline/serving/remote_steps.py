"""Fetch the steps of a loader from servers of `alexprep serve`, ahead of their use.

In:  tickets for the next steps.    Out: a `StepInput` per step, or the arrays of a finished batch.

The result equals that of local shards, bit for bit.
"""

import os
import threading
import time
import warnings
import weakref
from collections import deque
from concurrent.futures import Future, as_completed, wait
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8
from pyarrow import flight

from ..arrow import byte_views, plain
from ..batches.cpu_engine import DTYPES, BufferPool
from ..batches.steps import StepSource
from ..batches.views import StepInput, placed, windows
from ..config import LoaderConfig
from ..errors import DataError, UndecodableImage
from ..imaging.codec import decode_record
from ..shards.manifest import Manifest
from ..shards.reader import Records
from ..shards.stats import Stats
from ..storage.flight_client import Attempt, NotHere, NotNeeded, Server, Servers, begun
from ..storage.uri import RemotePath
from .protocol import Ticket, digest, shape_of

USUAL = 1.0  # seconds to wait before another server is asked too, at least
SLOW = 4.0  # multiple of the median answer time after which another server is asked too
LEAST_SECONDS = 30.0  # timeout of a request, seconds, at least; doubled after each timeout
# Backoff of a server that another one overtook, seconds: twice this at first, doubled each time.
SLOW_SECONDS = 1.0


class ServerLeftOut(UserWarning):
    """One of several servers refuses the tickets, for example because it has another data set."""


class ServedStep(NamedTuple):
    """A server's answer for a step."""

    numbers: Int64[np.ndarray, "b"]
    labels: Int64[np.ndarray, "b"]
    images: Any  # a finished batch, or a list of one image per record


class RemoteStepSource(StepSource):
    """Yields the step inputs of one rank, fetched from servers.

    The next `prefetch` + 2 steps are requested ahead, each from the least busy server.
    """

    def __init__(self, manifest: Manifest, config: LoaderConfig, stats: Stats, theirs: Stats, records: Records) -> None:
        """Take the manifest, statistics (`theirs`) and records of the servers' data set.

        Raises ValueError if `stats` differ from `theirs` and the servers compute with them (form "views" or "batches").
        """
        assert isinstance(manifest.directory, RemotePath)
        data = digest(manifest, theirs)
        if config.form != "records" and digest(manifest, stats) != data:
            raise ValueError(f'the servers make {config.form} with their own statistics; other statistics need form="records"')
        super().__init__(manifest, config, stats, records)
        self.finished = config.form == "batches"
        self._stored = manifest
        if config.form == "views":  # `_put_back` makes raw records of the views
            self.manifest = replace(manifest, config=replace(manifest.config, encoding="raw"))
        self._ticket = Ticket(data, config.form, 0, config)
        self._shape = shape_of(config.form, manifest, config)
        self._ahead = config.prefetch + 2
        self._servers = Servers(manifest.directory.root)
        self._memory = BufferPool(2 * self._ahead)
        self._took: deque[float] = deque([USUAL], maxlen=32)  # seconds that the last answers took
        self._coming: dict[int, Future[ServedStep]] = {}
        self._warned: set[str] = set()
        self._process = os.getpid()
        weakref.finalize(self, self._servers.close)

    def start(self, step: int) -> None:
        """Request `step` and the next ones."""
        if self._process != os.getpid():
            raise DataError(f"a loader of {self._stored.directory} does not survive a fork: make it in the process that uses it")
        self._coming.clear()
        self._ask_ahead(step)

    def stop(self) -> None:
        """Drop the pending requests."""
        self._coming.clear()

    def __call__(self, step: int) -> StepInput:
        """Return the input of `step`: the records or views that servers sent, and their draws."""
        epoch, planned = self.plan(step)
        numbers, labels, images = self.take(step)
        images = list(images)
        wanted = self.substituted(planned) if self._config.form == "records" else numbers
        # Known damaged records: a server does not decode records, so it does not replace them.
        for i in np.flatnonzero(wanted != numbers).tolist():
            images[i], labels[i] = self.records.image(int(wanted[i])), self.records.labels(wanted[i : i + 1])[0]
        inputs = self.drawn(epoch, StepInput(images, labels, wanted, np.zeros((len(wanted), 3), np.float32), None))
        return self._put_back(inputs) if self._config.form == "views" else inputs

    def take(self, step: int) -> ServedStep:
        """Wait for the answer of `step` and return it; request one more step ahead. Raises DataError if no server answers."""
        self._ask_ahead(step)
        answer = self._coming.pop(step).result()
        for location in set(self._servers.left_out) - self._warned:
            self._warned.add(location)
            warnings.warn(f"{location} is left out: {self._servers.left_out[location]}", ServerLeftOut, stacklevel=5)
        planned = self.plan(step)[1]
        for i in np.flatnonzero(answer.numbers != planned).tolist():
            damaged, given = int(planned[i]), int(answer.numbers[i])
            if damaged not in self.substitutes:
                self.substitutes[damaged] = given
                reason = self.records.damage(damaged) or f"record {damaged}, according to the server"
                self.tell(f"record {given} is given instead of a damaged one: {reason}")
        return answer

    def mend(self, step: int, error: Exception) -> None:
        """Find substitutes for the damaged records of a step that failed with `error`.

        Only records that do not decode in the servers' answer are fetched singly and checked.
        """
        answer = self._fetch(step)
        asked = self.substituted(answer.numbers)
        suspects = [int(asked[i]) for i, image in enumerate(answer.images) if not self._is_good(image)]
        damaged = {number: reason for number in suspects if number not in self.substitutes and (reason := self.records.damage(number))}
        if not damaged:
            raise error
        self.replace(damaged, error)

    def _is_good(self, image: UInt8[np.ndarray, "..."]) -> bool:
        try:
            if image.ndim == 1:
                decode_record(image, self._stored.config.size)
        except UndecodableImage:
            return False
        return True

    def _ask_ahead(self, step: int) -> None:
        for later in range(step, step + self._ahead):
            if later not in self._coming:
                self._coming[later] = begun(self._fetch, later)

    def _put_back(self, inputs: StepInput) -> StepInput:
        """Return `inputs` with its views pasted into raw records, at the crops' offsets."""
        size, crop = self._stored.config.size, self._config.crop
        fixed = windows(self._config.view, size - crop) if inputs.windows is None else []
        records = []
        for views, its_windows in zip(inputs.images, placed(inputs, fixed), strict=True):
            record = np.empty((size, size, 3), np.uint8)
            for view, (top, left, flip) in zip(views if len(its_windows) > 1 else [views], its_windows, strict=True):
                record[top : top + crop, left : left + crop] = cv2.flip(view, 1) if flip else view
            records.append(record)
        return inputs._replace(images=records)

    def _fetch(self, step: int) -> ServedStep:
        """Return the first answer to a step's ticket. One server is asked; if it takes long (`USUAL`, `SLOW`), another one is asked too."""
        usual, start = median(self._took), time.monotonic()
        seconds = max(LEAST_SECONDS, 4 * SLOW * usual)
        first = Attempt()
        slow: Server | None = None
        asks = [begun(self._ask, step, seconds, first, None)]
        if len(self._servers.servers) > 1 and not wait(asks, max(USUAL, SLOW * usual)).done:
            slow = first.server
            asks.append(begun(self._ask, step, seconds, Attempt(first.cancelled), slow))
        for done in as_completed(asks):
            if done.exception() is None:
                first.cancelled.set()
                if slow is not None and not asks[0].done() and first.server is slow:
                    slow.failed("it was slow", SLOW_SECONDS)
                self._took.append(time.monotonic() - start)
                return done.result()
        return asks[0].result()  # raises the error

    def _ask(self, step: int, seconds: float, attempt: Attempt, avoid: Server | None) -> ServedStep:
        ticket = flight.Ticket(replace(self._ticket, step=step).to_bytes())

        def work(client: Any, options: Any) -> ServedStep:  # noqa: ANN401  (pyarrow's)
            return self._read(client.do_get(ticket, options), step, attempt.cancelled)

        return self._servers.ask(work, self._config.server_patience, seconds, attempt, avoid)

    def _read(self, reader: Any, step: int, answered: threading.Event) -> ServedStep:  # noqa: ANN401  (a FlightStreamReader)
        """Return the answer after checking it; NotHere if it is malformed.

        It must have the records that were asked for, or others if damaged ones may be replaced.
        """
        try:
            return self._checked(reader, step, answered)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            # Nulls, missing columns, or columns of other types.
            raise NotHere(f"the answer is malformed: {error}") from error

    def _checked(self, reader: Any, step: int, answered: threading.Event) -> ServedStep:  # noqa: ANN401  (as above)
        planned = self.plan(step)[1]
        batch = self._memory.lease((len(planned), *self._shape.column.shape), DTYPES[self._config.dtype]) if self.finished else None
        chunks: list[pa.RecordBatch] = []
        rows = 0
        for chunk in reader:
            # Another server was faster, or the program ends.
            if answered.is_set() or self._servers.closed:
                reader.cancel()
                raise NotNeeded("another server was faster")
            data = chunk.data
            if rows + len(data) > len(planned) or data.schema.field("image").type != self._shape.column:
                raise NotHere(
                    f"the answer has {rows + len(data)} records of {data.schema.field('image').type}; expected the requested type and {len(planned)}"
                )
            if data.schema.field("record").type != pa.int64() or data.schema.field("label").type != pa.int64() or data.column("image").null_count:
                raise NotHere("the answer has columns of the wrong type, or a record without an image")
            if batch is not None:
                batch[rows : rows + len(data)] = data.column("image").to_numpy_ndarray()
            chunks.append(data)
            rows += len(data)
        if rows != len(planned):
            raise NotHere(f"the answer has {rows} records; expected {len(planned)}")
        numbers, labels = (np.concatenate([plain(chunk.column(name)) for chunk in chunks]) for name in ("record", "label"))
        if self._config.on_bad == "raise" and not np.array_equal(numbers, planned):
            raise NotHere("the answer has other records than were requested")
        if numbers.min() < 0 or numbers.max() >= len(self.records) or labels.min() < 0 or labels.max() >= len(self._stored.classes):
            raise NotHere("the answer has record numbers or labels that the data set does not have")
        if batch is not None:
            return ServedStep(numbers, labels, batch)
        side = self._stored.config.size if self._stored.config.encoding == "raw" else 0
        return ServedStep(numbers, labels, [image for chunk in chunks for image in _images(chunk.column("image"), side)])


def _images(column: pa.Array, side: int) -> list[UInt8[np.ndarray, "..."]]:
    """Return a message's images without copying them: views, or records.

    Raw records have `side` pixels a side; 0 means JPEG records. Raises NotHere for malformed ones.
    """
    if isinstance(column, pa.FixedShapeTensorArray):
        return list(column.to_numpy_ndarray())
    try:
        found = byte_views(column)
        return [image.reshape(side, side, 3) for image in found] if side else found
    except ValueError as error:
        raise NotHere(f"the answer has {error}") from error
