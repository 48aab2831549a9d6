"""The job `alexprep shard`: a plan, one task a shard, and a manifest at the end.

The plan says which source images go into which shard, from the source and the parameters alone; a task is idempotent and
single-threaded. So the bytes do not depend on the number of workers or on how often the job was killed.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .config import ShardConfig
from .errors import DataError, UndecodableImage
from .images import central_square, decode, decode_record, encode, use_one_thread
from .manifest import FORMAT_VERSION, MANIFEST, Manifest, Shard, Sidecar, Split, file_sha256, read_finished, read_manifest
from .moments import MomentsCounter
from .order import permutation
from .records import Row, ShardWriter, schema
from .sources import Source
from .storage import lock, published, remove_partials

QUARANTINE = "quarantine.jsonl"


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


class Progress(NamedTuple):
    """How far the job is, in source images."""

    done: int
    total: int
    bad: int


def shard_count(images: int, config: ShardConfig) -> int:
    """Return how many shards a split gets: full ones if it is large; else up to 16 of at least 64, so that workers share it."""
    return max(-(-images // config.records_per_shard), min(16, images // 64), 1)


@dataclass
class ShardJob:
    """Turns a source into a folder of shards: iterate over `run()`, then read `manifest`."""

    source: Source
    directory: Path
    config: ShardConfig = field(default_factory=ShardConfig)
    workers: int = 0  # 0: as many as this process may use CPUs
    max_bad: float = 0.01  # share of the source's images that may be unusable

    def __post_init__(self) -> None:
        """List the source and make the plan."""
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is a share, 0..1; got {self.max_bad}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        self.manifest: Manifest | None = None
        self.listings = self.source.listings()
        self.versions = {name: version(name) for name in ("opencv-python-headless", "simplejpeg", "pillow", "pyarrow")}
        self.plan = self._digest()
        self.total = sum(map(len, self.listings))

    def run(self) -> Iterator[Progress]:
        """Make what is missing, then the manifest; yields about five times a second.

        Raises DataError when more than `max_bad` of the images are unusable, when the folder belongs to another job, or
        when it cannot be written. Whatever the end, finished shards stay, and the same job continues from them.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with lock(self.directory):
                remove_partials(self.directory)
                yield from self._run_locked()
        except OSError as error:
            raise DataError(
                f"{error.filename or self.directory}: {error.strerror or error}. Finished shards are kept: mend it, and run the same command again"
            ) from error

    def _run_locked(self) -> Iterator[Progress]:
        if (self.directory / MANIFEST).is_file():
            manifest = read_manifest(self.directory)
            if manifest.plan != self.plan:
                raise DataError(
                    f"{self.directory} holds another data set: the source's files or the options were different. "
                    "Choose another --out, or delete the folder"
                )
            if self._whole(manifest):
                self.manifest = manifest
                yield Progress(self.total, self.total, sum(split.quarantined for split in manifest.splits.values()))
                return
            (self.directory / MANIFEST).unlink()
        finished: dict[Path, Sidecar] = {}
        todo: list[ShardTask] = []
        for task in self._tasks():
            sidecar = read_finished(task.path, self.plan, self.config.size)
            if sidecar is None:
                todo.append(task)
            else:
                finished[task.path] = sidecar
        bad = [Bad(task.split, key, reason) for task in self._tasks() if task.path in finished for key, reason in finished[task.path].quarantined]
        yield from self._make(todo, bad, self.total - sum(len(task.keys) for task in todo))
        self._commit()

    def _whole(self, manifest: Manifest) -> bool:
        """Tell whether every shard of a finished job is still there."""
        return all(
            read_finished(self.directory / shard.file, self.plan, self.config.size) is not None
            for split in manifest.splits.values()
            for shard in split.shards
        )

    def _tasks(self) -> Iterator[ShardTask]:
        """Yield the plan. Records are shuffled once, here (as the 2012 data was), so that every shard is a fair sample of all classes."""
        for listing in self.listings:
            order = permutation(0, 0, len(listing))
            parts = np.array_split(order, shard_count(len(listing), self.config))
            for index, part in enumerate(parts):
                yield ShardTask(
                    self.source,
                    self.directory,
                    self.config,
                    self.source.classes,
                    self.versions,
                    self.plan,
                    listing.split,
                    index,
                    len(parts),
                    [listing.keys[i] for i in part],
                    listing.labels[part].tolist(),
                )

    def _make(self, todo: list[ShardTask], bad: list[Bad], done: int) -> Iterator[Progress]:
        """Run the tasks; on return all of them are finished. `bad` is what finished shards left out."""
        yield Progress(done, self.total, len(bad))
        self._check_bad(bad)
        if not todo:
            return
        pool = _Pool(self.workers or len(os.sched_getaffinity(0)))
        try:
            pending: set[Future[list[Bad]]] = {pool.submit(task) for task in todo}
            earlier = len(bad)
            while pending:
                ready, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ready:
                    bad += future.result()
                yield Progress(done + pool.done.value, self.total, earlier + pool.bad.value)
                if earlier + pool.bad.value > self.max_bad * self.total:
                    pool.stop.set()  # workers return what they know
                    pending = {future for future in pending if not future.cancel()}
            self._check_bad(bad)
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died: killed from outside, out of memory, or a decoder crashed. Finished shards are kept; "
                "run the same command again, with fewer --workers if memory is short"
            ) from error
        finally:
            pool.close()

    def _check_bad(self, bad: list[Bad]) -> None:
        if len(bad) <= self.max_bad * self.total:
            return
        write_quarantine(self.directory, bad)
        shown = "".join(f"\n  {item.key}: {item.reason}" for item in sorted(bad)[:5])
        raise DataError(
            f"stopped: {len(bad)} of {self.total} images are unusable so far, more than --max-bad {self.max_bad:g} allows "
            f"({self.directory / QUARANTINE} has them all):{shown}\nMend the source, or allow more with --max-bad; finished shards are kept"
        )

    def _commit(self) -> None:
        """Write the quarantine list, then the manifest, from the sidecars."""
        splits: dict[str, list[Sidecar]] = {listing.split: [] for listing in self.listings}
        for task in self._tasks():
            sidecar = read_finished(task.path, self.plan, self.config.size)
            if sidecar is None:
                raise DataError(f"{task.path} vanished while the job ran; run the same command again")
            splits[task.split].append(sidecar)
        bad = [Bad(name, key, reason) for name, sidecars in splits.items() for sidecar in sidecars for key, reason in sidecar.quarantined]
        write_quarantine(self.directory, bad)
        self.manifest = Manifest(
            self.directory,
            self.plan,
            self.config,
            tuple(self.source.classes),
            {
                name: Split(tuple(sidecar.shard for sidecar in sidecars), sum(len(sidecar.quarantined) for sidecar in sidecars))
                for name, sidecars in splits.items()
            },
            self.versions,
        )
        self.manifest.write()

    def _digest(self) -> str:
        """Return the SHA-256 of all that the bytes follow from."""
        digest = hashlib.sha256()

        def feed(value: Any) -> None:  # noqa: ANN401  (JSON is anything)
            digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")

        feed([FORMAT_VERSION, asdict(self.config), self.source.classes])
        for listing in self.listings:
            feed([listing.split, len(listing)])
            digest.update(listing.labels.tobytes() + listing.sizes.tobytes())
            for key in listing.keys:
                digest.update(os.fsencode(key) + b"\0")
        return digest.hexdigest()


def write_quarantine(directory: Path, bad: list[Bad]) -> None:
    """Publish quarantine.jsonl: {"split", "key", "reason"} a line, sorted."""
    with published(directory / QUARANTINE) as file:
        for item in sorted(bad):
            file.write((json.dumps(item._asdict(), ensure_ascii=False) + "\n").encode())


class _Pool:
    """Worker processes, and the three numbers they share with the job."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")  # fork would copy threads' locks; spawn is the same everywhere
        self.done, self.bad, self.stop = context.Value("q", 0), context.Value("q", 0), context.Event()
        shared = (self.done, self.bad, self.stop)
        self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=shared)

    def submit(self, task: ShardTask) -> Future[list[Bad]]:
        return self._executor.submit(_work, task)

    def close(self) -> None:
        self.stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)


_shared: Any = None  # of a worker process: (done, bad, stop)


def _start_worker(*shared: Any) -> None:  # noqa: ANN401  (synchronised values have no public type)
    global _shared  # noqa: PLW0603  (an executor's initializer has no other way to hand values to its tasks)
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    use_one_thread()


def _die_with_parent() -> None:
    """A parent killed with -9 closes nothing: without this, workers would wait for their next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: ShardTask) -> list[Bad]:
    done, bad, stop = _shared

    def count(good: bool) -> bool:  # noqa: FBT001  (a callback of one value)
        with done.get_lock():
            done.value += 1
            bad.value += not good
        return not stop.is_set()

    return make_shard(task, count)


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
