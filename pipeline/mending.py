"""Shards made again where they were damaged, and new ones added to a finished data set; old bytes stay untouched."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import DataError
from .manifest import MANIFEST, Manifest, Split, present, read_manifest, read_sidecar, sidecar_path
from .plan import make_plan, read_plan
from .records import Records
from .remote import location
from .sharding import Progress, ShardJob, finished_shards, write_quarantine
from .sources import Listing, Source
from .sources.listing import some
from .storage import Location, file_sha256, lock, remove_partials
from .tasks import Bad


def repair(job: ShardJob, damaged: set[str]) -> Iterator[Progress]:
    """Make the shards named in `damaged` again, and nothing else, from the job's source; the manifest follows when all are whole.

    DataError if the source is not the one that they were made from.
    """
    directory = location(job.directory)
    manifest = read_manifest(directory)
    plans = manifest.shard_plans
    if job.plan.digest not in plans:
        raise DataError(f"{directory} was not made from this source with these labels: give --src the one that it was made from")
    suffix = _suffix(plans.index(job.plan.digest))
    job = replace(job, suffix=suffix, config=manifest.config, classes=manifest.classes)
    foreign = sorted(name for name in damaged if name not in {name for split in job.plan.images for name in job.plan.shards(split)})
    if foreign:
        raise DataError(f"{some(foreign)} were appended from another source: run alexprep repair with that --src")
    with lock(directory):
        if not damaged:
            remove_partials(directory)
            return
        for name in sorted(damaged):  # without a sidecar, a shard counts as not made
            sidecar_path(directory / name).unlink(missing_ok=True)
            (directory / name).unlink(missing_ok=True)
        yield from job.make_missing()
        job.manifest = refreshed(manifest)


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


def refreshed(manifest: Manifest) -> Manifest:
    """Write the manifest again from the sidecars of the shards it names."""
    splits = {}
    bad: list[Bad] = []
    for name, split in manifest.splits.items():
        sidecars = [read_sidecar(manifest.directory / shard.file) for shard in split.shards]
        splits[name] = Split(tuple(sidecar.shard for sidecar in sidecars), sum(len(sidecar.quarantined) for sidecar in sidecars))
        bad += [Bad(name, key, reason) for sidecar in sidecars for key, reason in sidecar.quarantined]
    write_quarantine(manifest.directory, bad)
    manifest = replace(manifest, splits=splits)
    manifest.write()
    return manifest


class AppendJob:
    """Adds the images of a source to a finished data set: iterate over `run()`, then read `manifest`."""

    def __init__(self, source: Source, directory: str | Location, workers: int = 0, max_bad: float = 0.01) -> None:
        """Check that they fit: no unknown class, no key that is there already."""
        self.manifest = read_manifest(directory)
        unknown = sorted(set(source.classes) - set(self.manifest.classes))
        if unknown:
            raise DataError(
                f"{self.manifest.directory} has no class {some(unknown)}: its labels are fixed. Shard the larger set anew to add classes to it"
            )
        source = _relabelled(source, self.manifest.classes)
        config, classes = self.manifest.config, self.manifest.classes
        digest = make_plan(source, config, classes=classes).digest
        self.already = digest in self.manifest.shard_plans
        number = self.manifest.shard_plans.index(digest) if self.already else len(self.manifest.shard_plans)
        if not self.already:
            self._check_new(source)
        self._job = ShardJob(source, self.manifest.directory, config, workers, max_bad, suffix=_suffix(number), classes=classes)
        self.total = self._job.total

    def run(self) -> Iterator[Progress]:
        """Make the new shards, then the manifest that has them; killed, it continues."""
        if self.already:
            return
        before = read_plan(self.manifest.directory, self._job.suffix)
        if before is not None and before.digest != self._job.plan.digest:
            raise DataError(
                f"{self.manifest.directory}: another append was begun and not finished; run that one again, "
                f"or delete its shards (*{self._job.suffix}-*) and job{self._job.suffix}.json"
            )
        yield from self._job.run()
        with lock(self.manifest.directory):
            self.manifest = _joined(read_manifest(self.manifest.directory), self._job)

    def _check_new(self, source: Source) -> None:
        for listing in source.listings():
            if listing.split not in self.manifest.splits:
                continue
            records = Records(self.manifest, listing.split)
            known = pa.array((records.key(i).encode() for i in range(len(records))), pa.large_binary())
            there = listing.keys.filter(pc.is_in(listing.keys, value_set=known))
            if len(there):
                names = some([key.decode("utf-8", "backslashreplace") for key in there.slice(0, 4).to_pylist()])
                raise DataError(f"{self.manifest.directory} has {len(there)} of these images already ({names}): give --src new ones only")


def _relabelled(source: Source, classes: tuple[str, ...]) -> Source:
    """Return `source` with its labels numbering `classes`."""
    number = np.array([classes.index(name) for name in source.classes], np.int64)
    listings = [Listing(listing.split, listing.keys, number[listing.labels], listing.places) for listing in source.listings()]
    return replace(source, classes=list(classes), found=listings)


def _joined(manifest: Manifest, job: ShardJob) -> Manifest:
    """Write the manifest with the shards of `job` after its own."""
    splits = dict(manifest.splits)
    for name, sidecars in finished_shards(manifest.directory, job.plan).items():
        before = splits.get(name, Split((), 0))
        shards = (*before.shards, *(sidecar.shard for sidecar in sidecars))
        splits[name] = Split(shards, before.quarantined + sum(len(sidecar.quarantined) for sidecar in sidecars))
    plans = (*manifest.shard_plans, job.plan.digest)
    return refreshed(replace(manifest, splits=splits, plans=plans, plan=hashlib.sha256("\n".join(plans).encode()).hexdigest()))


def _suffix(number: int) -> str:
    return f"+{number}" if number else ""
