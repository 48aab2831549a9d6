"""The job `alexprep shard`: a plan, one task a shard, and a manifest at the end.

The plan says which source images go into which shard, from the source and the parameters alone; a task is idempotent and
single-threaded. So the bytes do not depend on the number of workers or on how often the job was killed.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .config import ShardConfig
from .errors import DataError
from .manifest import FORMAT_VERSION, MANIFEST, Manifest, Sidecar, Split, read_finished, read_manifest
from .order import permutation
from .sources import Source
from .storage import lock, published, remove_partials
from .tasks import Bad, ShardTask
from .workers import Workers

QUARANTINE = "quarantine.jsonl"


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
        except OSError as error:
            raise DataError(f"cannot make the folder {self.directory}: {error.strerror}") from error
        try:
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
        missing: list[ShardTask] = []
        for task in self._tasks():
            sidecar = read_finished(task.path, self.plan, self.config.size)
            if sidecar is None:
                missing.append(task)
            else:
                finished[task.path] = sidecar
        bad = [Bad(task.split, key, reason) for task in self._tasks() if task.path in finished for key, reason in finished[task.path].quarantined]
        yield from self._make(missing, bad, self.total - sum(len(task.keys) for task in missing))
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

    def _make(self, missing: list[ShardTask], bad: list[Bad], done: int) -> Iterator[Progress]:
        """Run the tasks; on return all of them are finished. `bad` is what finished shards left out."""
        yield Progress(done, self.total, len(bad))
        self._check_bad(bad)
        if not missing:
            return
        pool = Workers(self.workers or len(os.sched_getaffinity(0)))
        try:
            pending: set[Future[list[Bad]]] = {pool.submit(task) for task in missing}
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
        except MemoryError as error:
            raise DataError("out of memory; finished shards are kept: run the same command again with fewer --workers") from error
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
        if not any(sidecar.shard.rows for sidecars in splits.values() for sidecar in sidecars):
            raise DataError(f"none of the {self.total} images is usable, so there is no data set; {self.directory / QUARANTINE} says why")
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
