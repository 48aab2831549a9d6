"""Shards made again where they were damaged, and new ones added to a finished data set; old bytes stay untouched."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc

from ..errors import DataError
from ..shards.manifest import MANIFEST, Manifest, read_manifest, read_sidecar, sidecar_path
from ..shards.reader import Records
from ..sources import Listing, Source
from ..sources.listing import shown, some
from ..storage.files import file_sha256, lock, remove_partials
from ..storage.uri import Location, location, present
from .finalize import commit, extend, sidecars_of
from .job import Progress, ShardJob
from .plan import read_plan


class RepairJob:
    """Makes damaged shards of a finished data set again, and nothing else: iterate over `run()`."""

    def __init__(self, source: Source, manifest: Manifest, damaged: set[str], workers: int = 0, max_bad: float = 0.01) -> None:
        """Check that `source` is what the shards named in `damaged` were made from."""
        self._job, self._manifest, self._damaged = _fitting(source, manifest, workers, max_bad), manifest, damaged
        if self._job.plan.digest not in manifest.shard_plans:
            raise DataError(f"{manifest.directory} was not made from this source with these labels: give --src the one that it was made from")
        self.total = self._job.total
        foreign = sorted(damaged - {name for split in self._job.plan.images for name in self._job.plan.shards(split)})
        if foreign:
            raise DataError(f"{some(foreign)} were appended from another source: run alexprep repair with that --src")

    def run(self) -> Iterator[Progress]:
        """Delete what is damaged, make it again, and write the manifest when all of it is whole."""
        directory = self._manifest.directory
        with lock(directory):
            if not self._damaged:
                remove_partials(directory)
                return
            for name in sorted(self._damaged):  # without a sidecar, a shard counts as not made
                sidecar_path(directory / name).unlink(missing_ok=True)
                (directory / name).unlink(missing_ok=True)
            yield from self._job.make_missing()
            commit(self._manifest, sidecars_of(self._manifest))


def start_over(job: ShardJob) -> Iterator[Progress]:
    """Finish a job whose manifest is missing or unreadable: what is damaged beside a shard is deleted, and the job runs."""
    directory = location(job.directory)
    with lock(directory):
        (directory / MANIFEST).unlink(missing_ok=True)
        for name in [name.removesuffix(".json") for name in present(directory) if name.endswith(".arrow.json")]:
            shard = directory / name
            try:
                whole = read_sidecar(shard).shard.sha256 == file_sha256(shard)
            except (DataError, OSError):
                whole = False
            if not whole:
                sidecar_path(shard).unlink(missing_ok=True)
    yield from job.run()


class AppendJob:
    """Adds the images of a source to a finished data set: iterate over `run()`, then read `manifest`."""

    def __init__(self, source: Source, directory: str | Location, workers: int = 0, max_bad: float = 0.01) -> None:
        """Check that they fit: no unknown class, no key that is there already."""
        self.manifest = read_manifest(directory)
        self._job = _fitting(source, self.manifest, workers, max_bad)
        self.total = self._job.total
        self.already = self._job.plan.digest in self.manifest.shard_plans
        if not self.already:
            self._check_new(source)

    def run(self) -> Iterator[Progress]:
        """Make the new shards, then the manifest that has them; killed, it continues."""
        if self.already:
            return
        directory, plan = self.manifest.directory, self._job.plan
        before = read_plan(directory, plan.suffix)
        if before is not None and before.digest != plan.digest:
            raise DataError(
                f"{directory}: another append was begun and not finished; run that one again, "
                f"or delete its shards (*{plan.suffix}-*) and job{plan.suffix}.json"
            )
        yield from self._job.run()
        with lock(directory):
            self.manifest = extend(read_manifest(directory), plan)

    def _check_new(self, source: Source) -> None:
        for listing in source.listings():
            if listing.split not in self.manifest.splits:
                continue
            known = Records(self.manifest, listing.split).keys().cast(listing.keys.type)
            there = listing.keys.filter(pc.is_in(listing.keys, value_set=known))
            if len(there):
                names = some([shown(key) for key in there.slice(0, 4).to_pylist()])
                raise DataError(f"{self.manifest.directory} has {len(there)} of these images already ({names}): give --src new ones only")


def _fitting(source: Source, manifest: Manifest, workers: int, max_bad: float) -> ShardJob:
    """Return the job that makes `source` part of a data set: its parameters, its labels, and the names of the plan's place in it."""
    unknown = sorted(set(source.classes) - set(manifest.classes))
    if unknown:
        raise DataError(f"{manifest.directory} has no class {some(unknown)}: its labels are fixed. Shard the larger set anew to add classes to it")
    number = np.array([manifest.classes.index(name) for name in source.classes], np.int64)
    listings = [Listing(listing.split, listing.keys, number[listing.labels], listing.places) for listing in source.listings()]
    source = replace(source, classes=list(manifest.classes), found=listings)
    job = ShardJob(source, manifest.directory, manifest.config, workers, max_bad)
    plans = manifest.shard_plans
    place = plans.index(job.plan.digest) if job.plan.digest in plans else len(plans)
    job.plan = replace(job.plan, suffix=f"+{place}" if place else "")
    return job
