"""Which records, in which step: (seed, epoch, step, rank, world size) -> record numbers, and nothing else.

Step t of an epoch takes places t*B .. t*B+B-1 of the epoch's order; rank r of w takes the r-th of w equal parts of
them. So the ranks' batches, laid side by side, are the global batch, whatever the number of ranks.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt64

from ..config import LoaderConfig, Shuffle
from ..counter_rng import ORDER, argsort, key, permutation, step
from ..errors import DataError

_OF_BLOCKS, _IN_POOLS = 3, 4  # purposes of keys; hashing.py has 1, augment.py 2
BLOCK = 512  # neighbouring records, about 20 MB of JPEG records: read in one run, any disk or object store is at its full rate
POOL = 16  # blocks that are shuffled together
PART = 1 << 20  # records of an order that are sorted at once, or a half of that: 0.1 s
CHUNK = 1 << 16  # hashes that are made at once: they stay in the cache


class Order:
    """A permutation in parts, of which only those that are asked for are made, and the last two are kept."""

    def __init__(self, ends: Int64[np.ndarray, "parts"], make: Callable[[int], Int64[np.ndarray, "k"]]) -> None:
        """Take the places where the parts end, and what makes the i-th."""
        self._ends = ends.tolist()
        self._begins = [0, *self._ends]
        self._make = lru_cache(maxsize=2)(make)

    def __getitem__(self, places: slice) -> Int64[np.ndarray, "k"]:
        """Return the numbers at places start to stop."""
        start, stop, _ = places.indices(self._begins[-1])
        if start >= stop:
            return np.empty(0, np.int64)
        first, last = bisect_right(self._ends, start), bisect_left(self._ends, stop)
        return np.concatenate([self._make(i)[max(0, start - self._begins[i]) : stop - self._begins[i]] for i in range(first, last + 1)])


@lru_cache(maxsize=2)
def shuffled(seed: int, epoch: int, n: int) -> Order:
    """Return `permutation(seed, epoch, n)`, in parts by the first bits of the hash.

    Of 14 million records the first batch is there in 0.4 s instead of 1.9, with a tenth of the memory. Each part costs a pass
    over the hashes of all, 0.2 s: about a thousandth of the time in which a part is read at 5,000 images/s.
    """
    if n <= CHUNK:
        return Order(np.array([n]), lambda _: permutation(seed, epoch, n))
    state, bits = key(ORDER, seed, epoch), max(1, (n // PART).bit_length())
    shift = np.uint64(64 - bits)

    def hashes() -> Iterator[tuple[int, UInt64[np.ndarray, "k"]]]:
        for first in range(0, n, CHUNK):
            yield first, step(state, np.arange(first, min(n, first + CHUNK), dtype=np.uint64))

    def part(i: int) -> Int64[np.ndarray, "k"]:
        found = [(first + np.flatnonzero(mine), values[mine]) for first, values in hashes() for mine in [values >> shift == i]]
        numbers, values = (np.concatenate(column) for column in zip(*found, strict=True))
        return numbers[argsort(values)]

    counts = np.zeros(1 << bits, np.int64)
    for _, values in hashes():
        counts += np.bincount((values >> shift).astype(np.int64), minlength=len(counts))
    return Order(counts.cumsum(), part)


@lru_cache(maxsize=2)
def block_shuffled(seed: int, epoch: int, n: int) -> Order:
    """Return a permutation of 0..n-1 that stays within POOL blocks at a time, fixed for ever by its arguments.

    Blocks of neighbouring records are shuffled; then, POOL blocks after POOL blocks, all their records are.
    """
    blocks = argsort(step(key(_OF_BLOCKS, seed, epoch), np.arange(-(-n // BLOCK), dtype=np.uint64)))
    state = key(_IN_POOLS, seed, epoch)

    def part(i: int) -> Int64[np.ndarray, "k"]:
        numbers = (BLOCK * blocks[POOL * i : POOL * (i + 1), None] + np.arange(BLOCK)).ravel()
        numbers = numbers[numbers < n]
        return numbers[argsort(step(state, numbers.astype(np.uint64)))]

    lengths = np.minimum(BLOCK, n - BLOCK * blocks)  # the last block may be shorter
    return Order(np.add.reduceat(lengths, np.arange(0, len(blocks), POOL)).cumsum() if n else np.empty(0, np.int64), part)


def keep_orders(count: int) -> None:
    """Keep so many epochs' orders instead of two: a server has trainers in several. About 10 MB each for ImageNet."""
    global shuffled, block_shuffled
    shuffled, block_shuffled = (lru_cache(maxsize=count)(order.__wrapped__) for order in (shuffled, block_shuffled))


@dataclass(frozen=True)
class Sampler:
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
    def of(cls, records: int, config: LoaderConfig) -> "Sampler":
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
        order = shuffled if self.shuffle == "full" else block_shuffled
        return epoch, order(self.seed, epoch, self.records)[start + low : start + high]
