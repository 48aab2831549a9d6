"""Which records, in which step: (seed, epoch, step, rank, world size) -> record numbers, and nothing else.

Step t of an epoch takes places t*B .. t*B+B-1 of the epoch's order; rank r of w takes the r-th of w equal parts of
them. So the ranks' batches, laid side by side, are the global batch, whatever the number of ranks.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt64

from .config import LoaderConfig, Shuffle
from .errors import DataError
from .hashing import key, step

_PURPOSE, _OF_BLOCKS, _IN_POOLS = 1, 3, 4  # augment.py has 2
BLOCK = 512  # neighbouring records, about 20 MB of JPEG records: read in one run, any disk or object store is at its full rate
POOL = 16  # blocks that are shuffled together


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, n: int) -> Int64[np.ndarray, "n"]:
    """Return a permutation of 0..n-1, fixed for ever by its arguments (read-only).

    The numbers are sorted by a 64-bit hash. The hash is a bijection, so there are no ties, and any sorting algorithm on
    any machine gives this same answer (numpy promises that of no `permutation` of its own).
    """
    order = argsort(step(key(_PURPOSE, seed, epoch), np.arange(n, dtype=np.uint64)))
    order.flags.writeable = False
    return order


@lru_cache(maxsize=2)
def block_permutation(seed: int, epoch: int, n: int) -> Int64[np.ndarray, "n"]:
    """Return a permutation of 0..n-1 that stays within POOL blocks at a time, fixed for ever by its arguments (read-only).

    Blocks of neighbouring records are shuffled; then, POOL blocks after POOL blocks, all their records are.
    """
    blocks = argsort(step(key(_OF_BLOCKS, seed, epoch), np.arange(-(-n // BLOCK), dtype=np.uint64)))
    state, order = key(_IN_POOLS, seed, epoch), np.empty(n, np.int64)
    filled = 0
    for first in range(0, len(blocks), POOL):
        pool = (BLOCK * blocks[first : first + POOL, None] + np.arange(BLOCK)).ravel()
        pool = pool[pool < n]
        order[filled : filled + len(pool)] = pool[argsort(step(state, pool.astype(np.uint64)))]
        filled += len(pool)
    order.flags.writeable = False
    return order


def argsort(values: UInt64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """Return numpy's `argsort` of distinct 64-bit values, in a fifth of its time; `values` is used up.

    Each number takes the place of its value's lowest bits, and the values themselves are sorted, for which numpy has vector
    instructions. Values that differ in nothing but those bits (91 pairs expected among 14 million) are put right at the end.
    """
    bits = np.uint64(len(values).bit_length())
    numbers = np.uint64((1 << int(bits)) - 1)
    low = values & numbers
    values -= low
    values |= np.arange(len(values), dtype=np.uint64)
    values.sort()
    order = (values & numbers).astype(np.int64)
    values >>= bits
    same = np.flatnonzero(values[1:] == values[:-1])
    for run in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1):
        if len(run):
            part = slice(int(run[0]), int(run[-1]) + 2)
            order[part] = order[part][np.argsort(low[order[part]])]
    return order


@dataclass(frozen=True)
class Plan:
    """The steps of one rank through `records` records, epoch after epoch."""

    records: int
    batch_size: int  # of all ranks
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    shuffle: Shuffle = "full"
    drop_last: bool = True

    def __post_init__(self) -> None:
        """Refuse a data set in which this plan has no step."""
        if self.drop_last and self.records < self.batch_size:
            raise DataError(f"{self.records} records are fewer than one batch of {self.batch_size}; use a smaller batch size")

    @classmethod
    def of(cls, records: int, config: LoaderConfig) -> "Plan":
        """Return the plan of a loader: random views are shuffled, and drop a partial last batch; others take every record in stored order."""
        random = config.view == "random"
        shuffle = config.shuffle if random else "none"
        return cls(records, config.batch_size, config.seed, config.rank, config.world_size, shuffle, drop_last=random)

    @property
    def steps(self) -> int:
        """Steps an epoch in which this rank has a record (when the last batch is partial, some ranks may have none)."""
        full, rest = divmod(self.records, self.batch_size)
        if self.drop_last:
            return full
        low, high = self._part(rest)
        return full + (high > low)

    def _part(self, count: int) -> tuple[int, int]:
        return count * self.rank // self.world_size, count * (self.rank + 1) // self.world_size

    def __call__(self, step: int) -> tuple[int, Int64[np.ndarray, "b"]]:
        """Return (epoch, record numbers) of the rank's `step`, counted from the start of epoch 0."""
        epoch, place = divmod(step, self.steps)
        start = place * self.batch_size
        low, high = self._part(min(self.batch_size, self.records - start))
        if self.shuffle == "none":
            return epoch, np.arange(start + low, start + high)
        order = permutation if self.shuffle == "full" else block_permutation
        return epoch, order(self.seed, epoch, self.records)[start + low : start + high]
