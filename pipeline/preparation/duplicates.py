"""Find duplicate images: groups with equal bytes, and nearly equal pairs in different splits."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt64

from ..shards.manifest import Manifest
from ..shards.reader import Records
from .diff import image_digest

# Largest difference of two 64-bit hashes, in bits; one of the four 16-bit quarters is then equal.
BITS_APART = 3
LEVELS_APART = 6.0  # largest mean difference of two 32x32 grey images, of 255


class DuplicateGroup(NamedTuple):
    """Records that hold the same image."""

    kind: str  # "same bytes" or "nearly the same pixels"
    where: tuple[str, ...]  # keys, which begin with the split


class DuplicateSearch:
    """Finds equal records anywhere, and nearly equal ones in different splits.

    Iterate over `run()`, then read `found`.
    """

    def __init__(self, manifest: Manifest) -> None:
        """Prepare to search every split."""
        self._records = {name: Records(manifest, name) for name in manifest.splits}
        self.total = sum(map(len, self._records.values()))
        self.found: list[DuplicateGroup] = []

    def run(self) -> Iterator[int]:
        """Read every record once, yield how many are done, then compare the records."""
        splits, numbers = [], []
        digests: UInt64[np.ndarray, n] = np.zeros(self.total, np.uint64)
        hashes: UInt64[np.ndarray, n] = np.zeros(self.total, np.uint64)
        at = 0
        for index, records in enumerate(self._records.values()):
            splits.append(np.full(len(records), index))
            numbers.append(np.arange(len(records)))
            for record in range(len(records)):
                digests[at] = image_digest(records.image(record))
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
    """Return 64 bits of an image: whether the right neighbour of each of 8x8 cells is brighter."""
    small = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def close_pairs(hashes: UInt64[np.ndarray, "n"], ours: np.ndarray, others: np.ndarray) -> set[tuple[int, int]]:
    """Return the pairs (i of `ours`, j of `others`) whose hashes differ in at most BITS_APART bits.

    One of the four quarters of such hashes is equal, so only images with an equal quarter are
    compared, 2**20 pairs at a time.
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
