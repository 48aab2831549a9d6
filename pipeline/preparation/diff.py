"""Compare two data sets: keys added, removed, relabelled and re-encoded."""

import hashlib
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..shards.manifest import Manifest
from ..shards.reader import Records


class Difference(NamedTuple):
    """The differences of one split from data set A to data set B; all keys are sorted."""

    added: list[str]
    removed: list[str]
    relabelled: list[tuple[str, str, str]]  # key, class in A, class in B
    reencoded: list[str]
    same: int


def difference(a: Manifest, b: Manifest, split: str) -> Difference:
    """Compare the records of `split` by key: their classes and their stored bytes. A data set without that split counts as empty."""
    sides = [_fingerprints(manifest, split) for manifest in (a, b)]
    both = sides[0].join(sides[1], "key", join_type="full outer", left_suffix="_a", right_suffix="_b").sort_by("key")
    in_a, in_b = pc.is_valid(both["class_a"]), pc.is_valid(both["class_b"])
    common = both.filter(pc.and_(in_a, in_b))
    moved = common.filter(pc.not_equal(common["class_a"], common["class_b"]))
    other = pc.not_equal(common["digest_a"], common["digest_b"])
    relabelled = list(zip(*(moved[name].to_pylist() for name in ("key", "class_a", "class_b")), strict=True))
    reencoded = common.filter(other)["key"].to_pylist()
    equal = pc.and_(pc.equal(common["class_a"], common["class_b"]), pc.invert(other))
    added, removed = (both.filter(pc.invert(side))["key"].to_pylist() for side in (in_a, in_b))
    return Difference(added, removed, relabelled, reencoded, _true(equal))


def _true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _fingerprints(manifest: Manifest, split: str) -> pa.Table:
    """Return a table of key, class and digest of the stored image, one row per record."""
    if split not in manifest.splits:
        return pa.table({"key": pa.array([], pa.string()), "class": pa.array([], pa.string()), "digest": pa.array([], pa.uint64())})
    records = Records(manifest, split)
    labels = pa.array(records.labels(np.arange(len(records))))
    digests = (image_digest(records.image(record)) for record in range(len(records)))
    return pa.table({"key": records.keys(), "class": pa.array(manifest.classes).take(labels), "digest": pa.array(digests, pa.uint64())})


def image_digest(image: np.ndarray) -> int:
    """Return a 64-bit BLAKE2b digest of the stored bytes of an image."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest(), "little")
