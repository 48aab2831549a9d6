"""Make damaged or missing shards of a finished data set again; whole shards stay untouched."""

from collections.abc import Iterator

from ..errors import DataError
from ..shards.manifest import MANIFEST, Manifest
from ..shards.sidecar import read_sidecar, sidecar_path
from ..sources import Source
from ..sources.listing import some
from ..storage.files import file_sha256, lock, remove_partials
from ..storage.uri import location, present
from .existing import job_of
from .finalize import commit, sidecars_of
from .job import Progress, ShardJob


class RepairJob:
    """Makes damaged shards of a finished data set again, and nothing else: iterate over `run()`."""

    def __init__(self, source: Source, manifest: Manifest, damaged: set[str], workers: int = 0, max_bad: float = 0.01) -> None:
        """Check that `source` is what the shards named in `damaged` were made from."""
        self._job, self._manifest, self._damaged = job_of(source, manifest, workers, max_bad), manifest, damaged
        if self._job.plan.digest not in manifest.shard_plans:
            raise DataError(f"{manifest.directory} was not made from this source with these labels: give --src the one that it was made from")
        self.total = self._job.total
        foreign = sorted(damaged - {name for split in self._job.plan.images for name in self._job.plan.shards(split)})
        if foreign:
            raise DataError(f"{some(foreign)} were appended from another source: run alexprep repair with that --src")

    def run(self) -> Iterator[Progress]:
        """Delete the damaged shards, make them again, and write the manifest when all are whole."""
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
    """Finish a job whose manifest is missing or unreadable. The sidecars of damaged shards are deleted, then the job runs."""
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
