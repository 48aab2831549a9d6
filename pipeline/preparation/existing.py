"""Build the job that makes a source part of a finished data set, for repair and append."""

from dataclasses import replace

import numpy as np

from ..errors import DataError
from ..shards.manifest import Manifest
from ..sources import Listing, Source
from ..sources.listing import some
from .job import ShardJob


def job_of(source: Source, manifest: Manifest, workers: int, max_bad: float) -> ShardJob:
    """Return the job that makes `source` part of a finished data set.

    The job has the data set's parameters and labels; the names of its shards tell the plan's place
    among the data set's plans.
    """
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
