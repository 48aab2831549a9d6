"""Test statistically that record order and augmentation draws are as random as they should be.

Every statistic is scaled so that it is about standard normal if the draws are random, and must stay
below BOUND. By chance alone, one exceeds it about once in 100,000 runs of all tests.
"""

import math
from collections.abc import Iterator
from itertools import combinations
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from ..batches.augment import Draws, draws
from ..counter_rng import permutation

BOUND = 5.5  # standard deviations; |z| exceeds it with probability 4e-8
NORMAL = NormalDist()
# Records tested by default: enough to detect a correlation of 0.013, or 50.6 % mirrored images.
RECORDS = 200_000
_PARTS = 32  # parts of an epoch, and of the stored order: 1,024 cells


class RandomnessFinding(NamedTuple):
    """The result of one test."""

    name: str
    z: float  # deviation from the expected value, standard deviations

    @property
    def good(self) -> bool:
        """Whether chance explains the deviation."""
        return abs(self.z) < BOUND


def check_draws(seed: int, epoch: int, records: int, room: int) -> Iterator[RandomnessFinding]:
    """Test the draws of `records` records, also against the next epoch and the next seed."""
    numbers = np.arange(records)
    now, later, other = (draws(*which, numbers, room) for which in ((seed, epoch), (seed, epoch + 1), ((seed + 1) % 2**64, epoch)))
    side = room + 1
    if room:
        yield RandomnessFinding(
            f"{side} x {side} crop offsets are equally likely", chi_square(np.bincount(now.top * side + now.left, minlength=side * side))
        )
    yield RandomnessFinding("half of the images are mirrored", float((now.flip.mean() - 0.5) * 2 * np.sqrt(records)))
    for lane in range(3):
        yield RandomnessFinding(
            f"alpha {lane + 1} is standard normal", kolmogorov(np.array([NORMAL.cdf(x) for x in np.sort(now.alpha[:, lane]).tolist()]))
        )
    yield RandomnessFinding("the variance of alphas is 1", float(((now.alpha**2).mean() - 1) * np.sqrt(now.alpha.size / 2)))
    first = 0 if room else 2  # without room, top and left are always 0
    names, lanes = ("top", "left", "flip", "alpha 1", "alpha 2", "alpha 3")[first:], _lanes(now)[first:]
    for (name, a), (other_name, b) in combinations(zip(names, lanes, strict=True), 2):
        yield RandomnessFinding(f"{name} is uncorrelated with {other_name}", correlation(a, b))
    for name, here, next_epoch, next_seed in zip(names, lanes, _lanes(later)[first:], _lanes(other)[first:], strict=True):
        yield RandomnessFinding(f"{name} is uncorrelated with the next epoch's", correlation(here, next_epoch))
        yield RandomnessFinding(f"{name} is uncorrelated with the next seed's", correlation(here, next_seed))
        yield RandomnessFinding(f"{name} is uncorrelated with the next record's", correlation(here[:-1], here[1:]))


def check_order(seed: int, epoch: int, records: int) -> Iterator[RandomnessFinding]:
    """Test the record order of one epoch.

    Every part of the records must be spread over the epoch. A record's place must be uncorrelated
    with its place in the next epoch and with the next seed, and with the next record's place.
    """
    now, later, other = (np.argsort(permutation(*which, records)) for which in ((seed, epoch), (seed, epoch + 1), ((seed + 1) % 2**64, epoch)))
    cells = (now * _PARTS // records) * _PARTS + np.arange(records) * _PARTS // records
    spread = chi_square(np.bincount(cells, minlength=_PARTS * _PARTS), (_PARTS - 1) ** 2)
    yield RandomnessFinding("every part of the records is spread over the epoch", spread)
    yield RandomnessFinding("a record's place is uncorrelated with its place in the next epoch", correlation(now, later))
    yield RandomnessFinding("a record's place is uncorrelated with its place with the next seed", correlation(now, other))
    yield RandomnessFinding("a record's place is uncorrelated with the next record's", correlation(now[:-1], now[1:]))


def _lanes(drawn: Draws) -> tuple[Any, ...]:
    return drawn.top, drawn.left, drawn.flip, *drawn.alpha.T


def chi_square(counts: Int64[np.ndarray, "n"], freedom: int | None = None) -> float:
    """Return how far `counts` are from equal, in standard deviations. It is Wilson and Hilferty's nearly normal transform of chi-square."""
    freedom, expected = freedom or len(counts) - 1, counts.mean()
    ratio = float(((counts - expected) ** 2 / expected).sum() / freedom)
    return (ratio ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def kolmogorov(cdf: Float64[np.ndarray, "n"]) -> float:
    """Return how far sorted values of a distribution function are from uniform.

    It is the probability of Kolmogorov's test, expressed in standard deviations.
    """
    n = len(cdf)
    distance = math.sqrt(n) * max(float((np.arange(1, n + 1) / n - cdf).max()), float((cdf - np.arange(n) / n).max()))
    chance = 2 * sum((-1) ** (j - 1) * math.exp(-2 * (j * distance) ** 2) for j in range(1, 30))
    return -NORMAL.inv_cdf(min(max(chance, 1e-300), 1 - 1e-15))


def correlation(a: Any, b: Any) -> float:  # noqa: ANN401  (columns of any type)
    """Return the correlation of two columns in units of its standard deviation."""
    return float(np.corrcoef(a, b)[0, 1] * np.sqrt(len(a)))
