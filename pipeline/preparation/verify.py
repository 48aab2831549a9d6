"""Verify that a data set is as it was written, by the sidecar and SHA-256 of every shard.

With `deep`, every record is decoded and every sum recomputed, too.

In:  a manifest.    Out: problems, each with its file; none: every bit of every shard is as written.
"""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from ..errors import DataError
from ..imaging.moments import Moments, MomentsCounter
from ..shards.manifest import MANIFEST, Manifest
from ..shards.reader import Records
from ..shards.sidecar import Shard, read_sidecar
from ..shards.stats import MEAN_IMAGE, STATS, compute_stats
from ..storage.files import file_sha256, read_array, read_json
from ..storage.uri import Location, present
from .process_pool import context, settle


class Problem(NamedTuple):
    """Something that is not as it was written."""

    file: str
    what: str


@dataclass(frozen=True)
class _Check:
    manifest: Manifest
    split: str
    shard: Shard
    deep: bool


class Verification:
    """Checks a data set: iterate over `run()`, then read `problems`."""

    def __init__(self, manifest: Manifest, *, deep: bool = False, workers: int = 0) -> None:
        """Prepare to check all shards of `manifest`. `workers` is the number of threads, or of processes if `deep` (0: one per CPU)."""
        self.manifest, self._deep = manifest, deep
        self._workers = workers or len(os.sched_getaffinity(0))
        self._checks = [_Check(manifest, name, shard, deep) for name, split in manifest.splits.items() for shard in split.shards]
        self.problems: list[Problem] = []
        self.total = len(self._checks)

    @property
    def damaged(self) -> set[str]:
        """The names of the shards with a problem, in the shard or in a file beside it."""
        names = {check.shard.file for check in self._checks}
        return {problem.file.removesuffix(".json").removesuffix(".pixelsum.npy") for problem in self.problems} & names

    def run(self) -> Iterator[int]:
        """Check all shards; yield how many are done."""
        try:
            with self._executor() as executor:
                for done, future in enumerate(as_completed([executor.submit(_check_shard, check) for check in self._checks]), 1):
                    self.problems += future.result()
                    yield done
        except BrokenProcessPool as error:
            raise DataError("a process that checked shards died: killed from outside or out of memory. Run it again, with fewer --workers") from error
        self._check_whole()
        self.problems.sort()

    def _which_is_wrong(self) -> str:
        """Return the message for a stats.json that differs from the sidecars."""
        if all(shard.sums_sha256 for split in self.manifest.splits.values() for shard in split.shards):
            return "the numbers are not those of the sidecars; run alexprep stats --pca again"
        remedy = "alexprep stats --verify tells which is right" if not self._deep else "run alexprep stats --pca again"
        return f"the numbers are not those of the sidecars (*.arrow.json), whose sums an older release did not bind to their shards; {remedy}"

    def _executor(self) -> Executor:
        if not self._deep:
            return ThreadPoolExecutor(self._workers)  # hashing releases the GIL
        return ProcessPoolExecutor(self._workers, mp_context=context(), initializer=settle)

    def _check_whole(self) -> None:
        """Check what no single shard shows: quarantine counts, and the statistics if they exist."""
        directory = self.manifest.directory
        if self.problems:
            return
        for name, split in self.manifest.splits.items():
            count = sum(len(read_sidecar(directory / shard.file).quarantined) for shard in split.shards)
            if count != split.quarantined:
                self.problems.append(Problem(MANIFEST, f"{name} has {split.quarantined} quarantined; its sidecars have {count}"))
        if (directory / STATS).is_file():
            value = read_json(directory / STATS)
            if isinstance(value, dict) and value.get("plan") == self.manifest.plan:
                computed = compute_stats(self.manifest, str(value.get("split")))
                expected = computed.to_json()
                if {name: expected[name] for name in expected if name in value} != {name: value[name] for name in expected if name in value}:
                    self.problems.append(Problem(STATS, self._which_is_wrong()))
                elif not _has_mean_image(directory / MEAN_IMAGE, computed.mean_image):
                    self.problems.append(Problem(MEAN_IMAGE, "is not the mean of the sidecars' sums; run alexprep stats --pca again"))


def _has_mean_image(path: Location, expected: Float32[np.ndarray, "s s 3"]) -> bool:
    try:
        return np.array_equal(read_array(path, expected.nbytes), expected)
    except (OSError, ValueError, DataError):
        return False


def _check_shard(check: _Check) -> list[Problem]:
    manifest, shard = check.manifest, check.shard
    path = manifest.directory / shard.file
    problems: list[Problem] = []
    moments: Moments | None = None
    counts: dict[int, int] = {}
    try:
        sidecar = read_sidecar(path)
        if sidecar.shard != shard:
            problems.append(Problem(f"{shard.file}.json", f"says {asdict(sidecar.shard)}; {MANIFEST} says {asdict(shard)}"))
        if sidecar.plan not in manifest.shard_plans:
            problems.append(Problem(f"{shard.file}.json", "is of another job"))
        counts, moments = sidecar.label_counts, sidecar.moments(path, manifest.config.size)
    except DataError as error:
        problems.append(Problem(f"{shard.file}.json", str(error)))
    try:
        size = path.stat().st_size
        if size != shard.bytes:
            return [*problems, Problem(shard.file, f"has {size} bytes instead of {shard.bytes}")]
        if file_sha256(path) != shard.sha256:
            problems.append(Problem(shard.file, "its SHA-256 is not the one it was written with"))
        elif check.deep:
            problems += [Problem(shard.file, what) for what in _read_all(check, counts, moments)]
    except FileNotFoundError:
        problems.append(Problem(shard.file, "is missing"))
    except OSError as error:
        problems.append(Problem(shard.file, f"cannot be read: {error.strerror or error}"))
    return problems


def _read_all(check: _Check, counts: dict[int, int], moments: Moments | None) -> Iterator[str]:
    """Decode every record of a shard; yield what is wrong."""
    config = check.manifest.config
    counter, labels = MomentsCounter(config.size), Counter[int]()
    try:
        records = Records(check.manifest, check.split, only=check.shard.file)
        for record in range(len(records)):
            try:
                counter.add(records.pixels(record))
            except DataError as error:
                yield str(error)
                continue
            labels[int(records.labels(np.array([record]))[0])] += 1
    except DataError as error:
        yield str(error)
        return
    if moments is not None and counter.moments() != moments:
        yield "the sums recomputed from its pixels differ from those beside it"
    if labels != counts:
        yield "its label counts differ from those beside it"


def strays(manifest: Manifest) -> list[str]:
    """Return shards in the folder that the manifest does not list: leftovers of another job."""
    known = {shard.file for split in manifest.splits.values() for shard in split.shards}
    return sorted(name for name in present(manifest.directory) if name.endswith(".arrow") and name not in known)
