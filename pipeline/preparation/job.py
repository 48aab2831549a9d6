"""Run the job of `alexprep shard`: a plan, one task per shard, and a manifest at the end.

The plan says which source images go into which shard, from the source and the parameters alone; a
task is idempotent and single-threaded. So the bytes do not depend on the number of workers,
machines or killed runs.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import NamedTuple

from ..config import ShardConfig
from ..errors import DataError
from ..shards.manifest import MANIFEST, Manifest, read_manifest
from ..shards.sidecar import files_of, read_finished
from ..sources import Place, Source
from ..storage.files import lock, remove_partials
from ..storage.uri import Location, location, present
from .executors import Engine, Workers, crashes_alone, worker_died
from .finalize import QUARANTINE, finalize, write_quarantine
from .plan import SplitShuffle, make_plan, read_plan
from .shard_task import Quarantined, ShardTask

ANOTHER = "the source's files or the options were different. Give the same ones to continue it, choose another --out, or delete the folder"


class Progress(NamedTuple):
    """The progress of the job, in source images of its part."""

    done: int
    total: int
    bad: int


class Part(NamedTuple):
    """Which share of the shards to make: part `number` (from 1) of `of`.

    Only a job with a single part writes the manifest.
    """

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Return the part for a text I/N; ValueError if it is not one."""
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"--part is I/N with I from 1 to N, such as 3/16; got {text}")
        return cls(int(match[1]), int(match[2]))

    def has(self, task: int) -> bool:
        """Return whether the shard with index `task` of the job belongs to this part."""
        return task % self.of == self.number - 1

    def __str__(self) -> str:
        """Return I-of-N, for the name of the lock; "" for the whole job."""
        return f"{self.number}-of-{self.of}" if self.of > 1 else ""


@dataclass
class ShardJob:
    """Turns a source into a folder of shards.

    Iterate over `run()`, then read `manifest` (None after a part).
    """

    source: Source
    directory: Location
    config: ShardConfig = field(default_factory=ShardConfig)
    workers: int = 0  # 0: one per CPU that this process may use
    max_bad: float = 0.01  # share of the source's images that may be unusable
    part: Part = field(default_factory=Part)
    engine: Callable[[int], Engine] = Workers

    def __post_init__(self) -> None:
        """Check the options and make the plan."""
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad is a share, 0..1; got {self.max_bad}")
        if self.workers < 0:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if not 1 <= self.part.number <= self.part.of:
            raise ValueError(f"part must be i/n with i in 1..n, got {self.part.number}/{self.part.of}")
        self.directory = location(self.directory)
        self.manifest: Manifest | None = None
        self.plan = make_plan(self.source, self.config)
        self._shuffles = {listing.split: SplitShuffle(listing, self.config) for listing in self.source.listings()}
        self._crashers: dict[bytes, str] = {}
        self.total = sum(self._images(split, index) for split, index, _ in self._mine())

    def run(self) -> Iterator[Progress]:
        """Make the missing shards, then the manifest; yield progress about five times a second.

        Raise DataError when more than `max_bad` of the images are unusable, when the folder belongs to another job, or
        when it cannot be written. In any case finished shards stay, and the same job continues from them.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {self.directory}: {error.strerror}") from error
        try:
            with lock(self.directory, str(self.part)):
                yield from self._run_locked()
        except OSError as error:
            raise DataError(
                f"{error.filename or self.directory}: {error.strerror or error}. Finished shards are kept: fix this, and run the same command again"
            ) from error

    def _run_locked(self) -> Iterator[Progress]:
        if not self.plan.suffix and (self.directory / MANIFEST).is_file():
            manifest = read_manifest(self.directory)
            self._check_same(manifest.shard_plans[0], manifest.source)
            if self._whole(manifest):
                self.manifest = manifest
                yield Progress(self.total, self.total, sum(split.quarantined for split in manifest.splits.values()))
                return
            if manifest.plans:
                raise DataError(f"{self.directory}: shards are missing or damaged, and images were appended to it: run alexprep repair")
            (self.directory / MANIFEST).unlink()
        before = read_plan(self.directory, self.plan.suffix)
        if before is None:
            self.plan.write(self.directory)
        else:
            self._check_same(before.digest, before.source)
        yield from self.make_missing()
        if self.part.of == 1 and not self.plan.suffix:
            self.manifest = finalize(self.directory, self.plan)

    def make_missing(self) -> Iterator[Progress]:
        """Make the missing shards of this part; the caller must hold the folder's lock."""
        names = {file for _, _, name in self._mine() for file in files_of(name)}
        remove_partials(self.directory, None if self.part.of == 1 else names)
        files = present(self.directory)
        missing: list[tuple[str, int, str]] = []
        bad: list[Quarantined] = []
        for split, index, name in self._mine():
            sidecar = read_finished(self.directory / name, self.plan.digest, files)
            if sidecar is None:
                missing.append((split, index, name))
            else:
                bad += [Quarantined(split, key, reason) for key, reason in sidecar.quarantined]
        yield from self._make(missing, bad)

    def _check_same(self, digest: str, source: dict[str, str]) -> None:
        """Raise DataError for another job, or for the same job after its images were changed."""
        if digest != self.plan.digest:
            raise DataError(f"{self.directory} holds another data set: {ANOTHER}")
        if source and source != self.plan.source and source["shape"] == self.plan.source["shape"]:
            raise DataError(f"{self.directory} was begun from other files of the same names (a size or a place differs): {ANOTHER}")

    def _whole(self, manifest: Manifest) -> bool:
        """Return whether all shards of a finished job are still there, with the right sizes."""
        files = present(self.directory)
        shards = [shard for split in manifest.splits.values() for shard in split.shards]
        return all(files.get(shard.file) == shard.bytes and set(files_of(shard.file)) <= files.keys() for shard in shards)

    def _mine(self) -> Iterator[tuple[str, int, str]]:
        """Yield (split, index, file) of the shards of this part."""
        tasks = ((split, index, name) for split in self.plan.images for index, name in enumerate(self.plan.shards(split)))
        return (task for number, task in enumerate(tasks) if self.part.has(number))

    def _images(self, split: str, index: int) -> int:
        return self._shuffles[split].count(index)

    def _task(self, split: str, index: int, name: str) -> ShardTask:
        shuffle = self._shuffles[split]
        before = sum(self.plan.images[other] for other in list(self.plan.images)[: list(self.plan.images).index(split)])
        return ShardTask(
            reader=self.source.readers[split],
            directory=self.directory,
            config=self.config,
            classes=self.plan.classes,
            versions=self.plan.versions,
            plan=self.plan.digest,
            file=name,
            index=index,
            count=len(shuffle.starts) - 1,
            images=shuffle.images(index),
            first=before + shuffle.starts[index],
            crashers={key: reason for key, reason in self._crashers.items() if key.startswith(f"{split}/".encode())},
        )

    def _make(self, missing: list[tuple[str, int, str]], bad: list[Quarantined]) -> Iterator[Progress]:
        """Run the tasks until all are finished; `bad` is what finished shards left out."""
        while True:
            try:
                yield from self._make_once(missing, bad)
            except _Crashed as crash:
                self._find_crashers(crash.in_hand)
                files = present(self.directory)
                again = [task for task in missing if read_finished(self.directory / task[2], self.plan.digest, files) is None]
                for split, _, name in set(missing) - set(again):
                    sidecar = read_finished(self.directory / name, self.plan.digest, files)
                    bad += [Quarantined(split, key, reason) for key, reason in (sidecar.quarantined if sidecar else ())]
                missing = again
            else:
                return

    def _make_once(self, missing: list[tuple[str, int, str]], bad: list[Quarantined]) -> Iterator[Progress]:
        done, earlier = self.total - sum(self._images(split, index) for split, index, _ in missing), len(bad)
        found: list[Quarantined] = []
        yield Progress(done, self.total, earlier)
        self._check_bad(bad)
        if not missing:
            return
        engine = self.engine(self.workers)
        stopped = False
        try:
            left = iter(missing)
            pending: set[Future[list[Quarantined]]] = set()
            while True:
                while not stopped and len(pending) < 2 * engine.width and (task := next(left, None)) is not None:
                    # Tasks are built when they are submitted: a large job needs little memory.
                    pending.add(engine.submit(self._task(*task)))
                if not pending:
                    break
                ready, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in ready:
                    found += future.result()
                made, unusable = engine.progress()
                yield Progress(done + made, self.total, earlier + unusable)
                if not stopped and earlier + unusable > self.max_bad * self.total:
                    engine.stop()  # workers return the unusable images found so far
                    stopped = True
                    pending = {future for future in pending if not future.cancel()}
            self._check_bad(bad + found)
        except MemoryError as error:
            raise DataError("out of memory; finished shards are kept: run the same command again with fewer --workers") from error
        except Exception as error:
            if not worker_died(error):
                raise
            raise _Crashed(engine.in_hand() if isinstance(engine, Workers) else []) from error
        finally:
            engine.close()

    def _find_crashers(self, in_hand: list[int]) -> None:
        """Decode the images that the dead workers were working on, each in its own process.

        Remember the images that crash their process. Raise DataError if none does: the workers were
        then killed from outside.
        """
        found = {}
        for number in in_hand:
            key, split, place = self._image(number)
            signal = crashes_alone(self.source.readers[split], place, self.config) if key not in self._crashers else None
            if signal is not None:
                found[key] = f"the decoder crashed on it ({signal})"
        if not found:
            raise DataError(
                "a worker process died: killed from outside or out of memory. Finished shards are kept; "
                "run the same command again, with fewer --workers if memory is short"
            )
        self._crashers |= found

    def _image(self, number: int) -> tuple[bytes, str, Place]:
        """Return (key, split, place) of image `number` of the job."""
        for split, count in self.plan.images.items():
            if number < count:
                key, _, place = self._shuffles[split].image(number).rows()[0]
                return key, split, place
            number -= count
        raise IndexError(number)

    def _check_bad(self, bad: list[Quarantined]) -> None:
        if len(bad) <= self.max_bad * self.total:
            return
        write_quarantine(self.directory, bad)
        shown = "".join(f"\n  {item.key}: {item.reason}" for item in sorted(bad)[:5])
        raise DataError(
            f"stopped: {len(bad)} of {self.total} images are unusable so far, more than --max-bad {self.max_bad:g} allows "
            f"({self.directory / QUARANTINE} lists them all):{shown}\nFix the source, or allow more with --max-bad; finished shards are kept"
        )


class _Crashed(Exception):
    """Worker processes died; `in_hand` are the numbers of the images that they were working on."""

    def __init__(self, in_hand: list[int]) -> None:
        super().__init__(in_hand)
        self.in_hand = in_hand
