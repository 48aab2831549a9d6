"""Plan a job: which image goes into which shard, from the source and parameters alone.

The plan is saved as job.json before the first shard.

In:  listings, parameters.    Out: a digest, shards with names, and the images of each.
"""

import hashlib
import json
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Int64

from ..config import ShardConfig
from ..counter_rng import permutation
from ..errors import DataError
from ..names import safe_file, safe_part
from ..shards.manifest import left_out
from ..shards.sidecar import FORMAT_VERSION
from ..sources import Listing, Source
from ..sources.listing import feed
from ..storage.files import read_json, write_json
from ..storage.uri import Location

JOB = "job.json"


def shard_count(images: int, config: ShardConfig) -> int:
    """Return how many shards a split gets.

    A large split gets full shards; a small one gets up to 16 shards of at least 64 images, so that
    several workers can share it.
    """
    return max(-(-images // config.records_per_shard), min(16, images // 64), 1)


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that can change a pixel or a byte."""
    return {name: version(name) for name in ("opencv-python-headless", "simplejpeg", "pillow", "pyarrow")}


@dataclass(frozen=True)
class ShardPlan:
    """A job without its source: enough to name every shard, and to tell whether it is finished."""

    digest: str  # sha256 of format version, parameters, classes, keys and labels
    config: ShardConfig
    classes: tuple[str, ...]
    images: dict[str, int]  # number of images by split
    source: dict[str, str]  # shape and fingerprint, which may differ for sources of the same images
    # by split: {"classes": those that the first split does not have, "images": how many}
    left_out: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""  # of shard names: "" for the first job, "+1" for the first append
    versions: dict[str, str] = field(default_factory=library_versions, compare=False)

    @property
    def total(self) -> int:
        """The number of images in all splits."""
        return sum(self.images.values())

    def shards(self, split: str) -> list[str]:
        """Return the names of a split's shards, in order."""
        count = shard_count(self.images[split], self.config)
        return [f"{split}{self.suffix}-{index:05}-of-{count:05}.arrow" for index in range(count)]

    def write(self, directory: Location) -> None:
        """Publish the plan as job.json (or job+1.json, see `job_file`)."""
        write_json(
            directory / job_file(self.suffix),
            {
                "format_version": FORMAT_VERSION,
                "plan": self.digest,
                "parameters": self.config.to_json(),
                "classes": self.classes,
                "images": self.images,
                "source": self.source,
                **({"left_out": self.left_out} if self.left_out else {}),
            },
        )


def job_file(suffix: str) -> str:
    """Return the name of the job's file: job.json, or job+1.json for the first append."""
    return JOB.replace(".", f"{suffix}.")


def read_plan(directory: Location, suffix: str = "") -> ShardPlan | None:
    """Return the plan saved in `directory`, None if there is none; DataError if it is damaged."""
    path = directory / job_file(suffix)
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        if value["format_version"] != FORMAT_VERSION:
            raise DataError(f"{path} has format version {value['format_version']}; this release continues version {FORMAT_VERSION}")
        images = {str(split): int(count) for split, count in value["images"].items()}
        config, classes = ShardConfig(**value["parameters"]), tuple(map(str, value["classes"]))
        if not images or min(images.values()) < 1:
            raise ValueError("it has no split, or an empty one")
        for split in images:
            safe_file(split, "the split")
        for name in classes:
            safe_part(name, "the class")
        return ShardPlan(str(value["plan"]), config, classes, images, dict(value["source"]), left_out(value), suffix)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path} is not a job file of alexprep ({type(error).__name__}: {error}); delete it and run alexprep shard again") from error


def make_plan(source: Source, config: ShardConfig) -> ShardPlan:
    """Return the plan for all of `source`."""
    listings = source.listings()
    digest = hashlib.sha256()

    def say(value: Any) -> None:  # noqa: ANN401  (JSON is anything)
        digest.update(json.dumps(value, sort_keys=True).encode() + b"\n")

    say([FORMAT_VERSION, config.to_json(), source.classes])
    for listing in listings:
        say([listing.split, len(listing)])
        digest.update(np.ascontiguousarray(listing.labels).tobytes())
        feed(digest, listing.keys)
    facts = {"shape": source.shape, "fingerprint": source.fingerprint()}
    images = {listing.split: len(listing) for listing in listings}
    return ShardPlan(digest.hexdigest(), config, tuple(source.classes), images, facts, source.left_out)


class SplitShuffle:
    """The images of one split, shuffled once (as the 2012 data was).

    So every shard is a fair sample of all classes.
    """

    def __init__(self, listing: Listing, config: ShardConfig) -> None:
        """Draw the order: a permutation of the listing that depends on its length alone."""
        self.listing = listing
        self._order: Int64[np.ndarray, n] = permutation(0, 0, len(listing))
        self._parts = np.array_split(self._order, shard_count(len(listing), config))
        # Number of each shard's first image.
        self.starts = np.cumsum([0, *map(len, self._parts)]).tolist()

    def images(self, index: int) -> Listing:
        """Return the images of shard `index`, in its order."""
        return self.listing.take(self._parts[index])

    def count(self, index: int) -> int:
        """Return the number of images of shard `index`."""
        return len(self._parts[index])

    def image(self, number: int) -> Listing:
        """Return image `number` in shuffled order, as a listing of one."""
        return self.listing.take(self._order[number : number + 1])
