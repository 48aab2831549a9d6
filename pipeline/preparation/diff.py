"""Two data sets side by side, and images that are in one twice.

In:  manifests.    Out: keys added, removed, relabelled, re-encoded; groups of equal images, pairs of nearly equal ones.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import UInt64

from ..shards.manifest import Manifest
from ..shards.reader import Records

BITS_APART = 3  # of 64; four 16-bit quarters then have one in common
LEVELS_APART = 6.0  # mean difference of two 32x32 grey pictures, of 255


class Difference(NamedTuple):
    """What one split has that the other has not, and what changed; keys, sorted."""

    added: list[str]
    removed: list[str]
    relabelled: list[tuple[str, str, str]]  # key, class in A, class in B
    reencoded: list[str]
    same: int


def difference(a: Manifest, b: Manifest, split: str) -> Difference:
    """Compare the records of `split` (empty where a data set has no such split) by key: their classes, and their stored bytes."""
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
    """Return key, class, digest of the stored image, one row a record."""
    if split not in manifest.splits:
        return pa.table({"key": pa.array([], pa.string()), "class": pa.array([], pa.string()), "digest": pa.array([], pa.uint64())})
    records = Records(manifest, split)
    labels = pa.array(records.labels(np.arange(len(records))))
    digests = (_digest(records.image(record)) for record in range(len(records)))
    return pa.table({"key": records.keys(), "class": pa.array(manifest.classes).take(labels), "digest": pa.array(digests, pa.uint64())})


def _digest(image: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).digest(), "little")


class DuplicateGroup(NamedTuple):
    """Images that are one."""

    kind: str  # "same bytes" or "nearly the same pixels"
    where: tuple[str, ...]  # split: key


class DuplicateSearch:
    """Finds equal records anywhere, and nearly equal ones in different splits: iterate over `run()`, then read `found`."""

    def __init__(self, manifest: Manifest) -> None:
        """Prepare to look through every split."""
        self._records = {name: Records(manifest, name) for name in manifest.splits}
        self.total = sum(map(len, self._records.values()))
        self.found: list[DuplicateGroup] = []

    def run(self) -> Iterator[int]:
        """Read every record once, yielding how many are done, then compare."""
        splits, numbers = [], []
        digests: UInt64[np.ndarray, n] = np.zeros(self.total, np.uint64)
        hashes: UInt64[np.ndarray, n] = np.zeros(self.total, np.uint64)
        at = 0
        for index, records in enumerate(self._records.values()):
            splits.append(np.full(len(records), index))
            numbers.append(np.arange(len(records)))
            for record in range(len(records)):
                digests[at] = _digest(records.image(record))
                hashes[at] = difference_hash(self._grey(index, record))
                at += 1
                yield at
        if not at:
            return
        split, number = np.concatenate(splits), np.concatenate(numbers)
        self._same(digests, split, number)
        self._nearly(hashes, digests, split, number)

    def _grey(self, split: int, record: int) -> np.ndarray:
        return cv2.cvtColor(list(self._records.values())[split].pixels(record), cv2.COLOR_RGB2GRAY)

    def _name(self, split: int, record: int) -> str:
        return str(list(self._records.values())[split].key(record))

    def _same(self, digests: np.ndarray, split: np.ndarray, number: np.ndarray) -> None:
        order = np.argsort(digests, kind="stable")
        starts = np.flatnonzero(np.r_[True, digests[order][1:] != digests[order][:-1]])
        for group in np.split(order, starts[1:]):
            if len(group) > 1:
                self.found.append(DuplicateGroup("same bytes", tuple(self._name(int(split[i]), int(number[i])) for i in group)))

    def _nearly(self, hashes: np.ndarray, digests: np.ndarray, split: np.ndarray, number: np.ndarray) -> None:
        pairs: set[tuple[int, int]] = set()
        for index in range(1, len(self._records)):
            ours, others = np.flatnonzero(split == index), np.flatnonzero(split < index)
            pairs |= close_pairs(hashes, ours, others)
        for one, other in sorted(pairs):
            if digests[one] == digests[other]:
                continue
            small = [
                cv2.resize(self._grey(int(split[i]), int(number[i])), (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) for i in (one, other)
            ]
            if np.abs(small[0] - small[1]).mean() <= LEVELS_APART:
                self.found.append(DuplicateGroup("nearly the same pixels", tuple(self._name(int(split[i]), int(number[i])) for i in (other, one))))


def difference_hash(grey: np.ndarray) -> int:
    """Return 64 bits of a picture: whether each of 8x8 places is brighter than its right neighbour."""
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def close_pairs(hashes: UInt64[np.ndarray, "n"], ours: np.ndarray, others: np.ndarray) -> set[tuple[int, int]]:
    """Return the pairs (i of `ours`, j of `others`) whose hashes differ in at most BITS_APART bits.

    Of four quarters one is equal then, so that only images with a quarter in common are compared, 2**20 pairs at a time.
    """
    found: set[tuple[int, int]] = set()
    for quarter in range(4):
        part = (hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = others[np.argsort(part[others], kind="stable")]
        low = np.searchsorted(part[order], part[ours], "left")
        high = np.searchsorted(part[order], part[ours], "right")
        for i, first, last in zip(ours.tolist(), low.tolist(), high.tolist(), strict=True):
            for start in range(first, last, 1 << 20):
                candidates = order[start : min(last, start + (1 << 20))]
                apart = np.bitwise_count(hashes[candidates] ^ hashes[i])
                found.update((i, int(j)) for j in candidates[apart <= BITS_APART])
    return found
