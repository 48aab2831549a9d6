"""Append images to a finished data set: new shards are added, the old ones keep their bytes."""

from collections.abc import Iterator

import pyarrow.compute as pc

from ..errors import DataError
from ..shards.manifest import read_manifest
from ..shards.reader import Records
from ..sources import Source
from ..sources.listing import shown, some
from ..storage.files import lock
from ..storage.uri import Location
from .existing import job_of
from .finalize import extend
from .job import Progress
from .plan import read_plan


class AppendJob:
    """Adds the images of a source to a finished data set.

    Iterate over `run()`, then read `manifest`.
    """

    def __init__(self, source: Source, directory: str | Location, workers: int = 0, max_bad: float = 0.01) -> None:
        """Check that the images fit: no unknown class, no key that the data set has already."""
        self.manifest = read_manifest(directory)
        self._job = job_of(source, self.manifest, workers, max_bad)
        self.total = self._job.total
        self.already = self._job.plan.digest in self.manifest.shard_plans
        if not self.already:
            self._check_new(source)

    def run(self) -> Iterator[Progress]:
        """Make the new shards, then the manifest that lists them; a killed run can be continued."""
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
