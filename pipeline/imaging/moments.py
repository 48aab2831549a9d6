"""Sum pixels and their products exactly; compute mean image, covariance and PCA from the sums.

The sums are integers, so those of several shards can be added in any order.

In:  uint8[s,s,3] records.    Out: integers; floats only at the very end, rounded once.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8, UInt64

from ..errors import DataError
from .kernels import IMAGES_IN_16_BITS, count_moments


@dataclass(frozen=True, eq=False)
class Moments:
    """First and second moments of RGB over all pixels, and the sum of each pixel of the square."""

    images: int
    total: tuple[int, int, int]  # sums of R, G, B over all pixels
    # Sums of the products of two channels.
    outer: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
    pixel_sum: UInt64[np.ndarray, "s s 3"]  # sum of each pixel over all images

    @property
    def pixels(self) -> int:
        """Pixels counted."""
        return self.images * len(self.pixel_sum) ** 2

    @classmethod
    def zero(cls, size: int) -> "Moments":
        """Return the moments of no image."""
        return cls(0, (0, 0, 0), ((0, 0, 0),) * 3, np.zeros((size, size, 3), np.uint64))

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of images together."""
        return Moments(
            self.images + other.images,
            _triple(a + b for a, b in zip(self.total, other.total, strict=True)),
            _triple(_triple(a + b for a, b in zip(r, s, strict=True)) for r, s in zip(self.outer, other.outer, strict=True)),
            self.pixel_sum + other.pixel_sum,
        )

    def __eq__(self, other: object) -> bool:
        """Return whether every sum is the same integer."""
        return (
            isinstance(other, Moments)
            and (self.images, self.total, self.outer) == (other.images, other.total, other.outer)
            and np.array_equal(self.pixel_sum, other.pixel_sum)
        )

    __hash__ = None  # type: ignore[assignment]  # holds an array

    def to_json(self) -> dict[str, Any]:
        """Return the sums as JSON numbers (of any size), without the per-pixel sums."""
        return {"images": self.images, "total": self.total, "outer": self.outer}

    @classmethod
    def from_json(cls, value: dict[str, Any], pixel_sum: UInt64[np.ndarray, "s s 3"]) -> "Moments":
        """Return the moments that `to_json` wrote, with their per-pixel sums.

        Raise ValueError or TypeError if they cannot be the sums of any images.
        """
        moments = cls(
            _whole(value["images"]), _triple(map(_whole, value["total"])), _triple(_triple(map(_whole, row)) for row in value["outer"]), pixel_sum
        )
        moments.check()
        return moments

    def check(self) -> None:
        """Raise ValueError if no uint8 images can have these sums.

        The sums of products must be symmetric, and give possible variances and correlations. All
        comparisons are of integers: with n pixels, n * n * covariance is n * outer - total * total.
        """
        n, total, outer = self.pixels, self.total, self.outer
        if tuple(int(x) for x in self.pixel_sum.sum((0, 1))) != total:
            raise ValueError("the sums of the pixels do not add up to those of the channels")
        if self.images < 0 or int(self.pixel_sum.max(initial=0)) > 255 * self.images:
            raise ValueError(f"a pixel's sum over {self.images} images is impossible: at most 255 per image")
        if any(outer[i][j] != outer[j][i] for i in range(3) for j in range(i)):
            raise ValueError("the sums of products are not symmetric")
        scatter = [[n * outer[i][j] - total[i] * total[j] for j in range(3)] for i in range(3)]
        for i in range(3):
            if scatter[i][i] < 0 or not total[i] <= outer[i][i] <= 255 * total[i]:
                raise ValueError(f"the sum of the squares of {'RGB'[i]} is impossible for pixels with this sum of values")
            for j in range(i):
                if not 0 <= outer[i][j] <= 255 * min(total[i], total[j]) or scatter[i][j] ** 2 > scatter[i][i] * scatter[j][j]:
                    raise ValueError(f"the sum of the products of {'RGB'[j]} and {'RGB'[i]} is impossible for pixels with these sums of values")
        (rr, rg, rb), (_, gg, gb), (_, _, bb) = scatter
        if rr * (gg * bb - gb * gb) - rg * (rg * bb - gb * rb) + rb * (rg * gb - gg * rb) < 0:
            raise ValueError("the sums of products are impossible: a variance would be negative")


def _whole(value: Any) -> int:  # noqa: ANN401  (JSON is anything)
    if type(value) is not int:
        raise TypeError(f"a sum is a whole number, not {value!r:.100}")
    return value


def _triple(values: Any) -> Any:  # noqa: ANN401  (a tuple of any three values)
    a, b, c = values
    return a, b, c


class MomentsCounter:
    """Adds the moments of images, one image at a time."""

    def __init__(self, size: int) -> None:
        """Start with the moments of no image; images have `size` x `size` pixels."""
        self._settled = Moments.zero(size)
        self._clear()

    def _clear(self) -> None:
        self._images = 0
        self._outer = np.zeros(6, np.uint64)
        self._pixel_sum = np.zeros(self._settled.pixel_sum.shape, np.uint16)

    def add(self, image: UInt8[np.ndarray, "s s 3"]) -> None:
        """Count one image.

        The latest images are summed in 16 bits per pixel value, which is a quarter of the memory to
        go through; those sums are moved to 64 bits before they overflow.
        """
        if self._images == IMAGES_IN_16_BITS:
            self._settle()
        count_moments(image, self._pixel_sum, self._outer)
        self._images += 1

    def _settle(self) -> None:
        rr, rg, rb, gg, gb, bb = map(int, self._outer)
        pixel_sum = self._pixel_sum.astype(np.uint64)
        total = _triple(map(int, pixel_sum.sum((0, 1))))
        self._settled += Moments(self._images, total, ((rr, rg, rb), (rg, gg, gb), (rb, gb, bb)), pixel_sum)
        self._clear()

    def moments(self) -> Moments:
        """Return the moments of all images counted."""
        self._settle()
        return self._settled


@dataclass(frozen=True, eq=False)
class Colours:
    """The distribution of RGB over pixels: mean, population covariance and its eigenvectors.

    The eigenvectors (principal colours) are rows; eigenvalues and eigenvectors: largest first.
    """

    mean: Float64[np.ndarray, "3"]
    covariance: Float64[np.ndarray, "3 3"]
    eigenvalues: Float64[np.ndarray, "3"]
    eigenvectors: Float64[np.ndarray, "3 3"]


def colours(moments: Moments) -> Colours:
    """Return mean, covariance and PCA of the pixels counted (paper, section 4.1).

    Mean and covariance are exact fractions, rounded once. An eigenvector's sign is arbitrary: the
    entry of largest magnitude is made positive. Raise DataError if no image was counted.
    """
    n = moments.pixels
    if n == 0:
        raise DataError("no image was counted, so there is no mean")
    mean = np.array([float(Fraction(t, n)) for t in moments.total])
    covariance = np.array(
        [[float(Fraction(n * moments.outer[i][j] - moments.total[i] * moments.total[j], n * n)) for j in range(3)] for i in range(3)]
    )
    values, columns = np.linalg.eigh(covariance)  # ascending
    rows = columns.T[::-1]
    signs = np.sign(rows[np.arange(3), np.abs(rows).argmax(1)])
    return Colours(mean, covariance, np.maximum(values[::-1], 0), rows * signs[:, None])


def mean_image(moments: Moments) -> Float64[np.ndarray, "s s 3"]:
    """Return the mean of each pixel of the square (paper, section 2). Raise DataError if no image was counted."""
    if moments.images == 0:
        raise DataError("no image was counted, so there is no mean image")
    return moments.pixel_sum / moments.images
