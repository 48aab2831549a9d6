"""Compute statistics of a split from its sidecars; read and write stats.json and mean_image.npy.

The pixels counted are those of the finished records: for JPEG records, the pixels *after* encoding,
decoded again. Training reads these pixels, so the mean that it subtracts is exactly the mean of its
input. Anyone can recompute the statistics from the shards alone.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from ..errors import DataError
from ..imaging.moments import Colours, Moments, MomentsCounter, colours, mean_image
from ..storage.files import file_sha256, read_array, read_json, write_array, write_json
from .manifest import Manifest
from .reader import Records

STATS, MEAN_IMAGE = "stats.json", "mean_image.npy"
NUMBERS = ("split", "images", "pixels", "mean", "covariance", "eigenvalues", "eigenvectors")


@dataclass(frozen=True, eq=False)
class Stats:
    """Mean image and colour statistics of a split; pixel values are 0..255."""

    split: str
    images: int
    pixels: int
    colours: Colours
    mean_image: Float32[np.ndarray, "s s 3"]

    def to_json(self, *, pca: bool = True) -> dict[str, Any]:
        """Return the content of stats.json, with or without eigenvalues and eigenvectors."""
        value = {
            "split": self.split,
            "images": self.images,
            "pixels": self.pixels,
            "mean": self.colours.mean.tolist(),
            "covariance": self.colours.covariance.tolist(),
        }
        if pca:
            value["eigenvalues"] = self.colours.eigenvalues.tolist()
            value["eigenvectors"] = self.colours.eigenvectors.tolist()
        return value


def compute_stats(manifest: Manifest, split: str = "train") -> Stats:
    """Return the statistics of a split by adding up its sidecars, without reading pixels."""
    return stats_of(manifest.moments(split), split)


def stats_of(moments: Moments, split: str) -> Stats:
    """Return the statistics of pixels already counted."""
    return Stats(split, moments.images, moments.pixels, colours(moments), mean_image(moments).astype(np.float32))


def write_stats(stats: Stats, manifest: Manifest, *, pca: bool) -> dict[str, Any]:
    """Publish mean_image.npy and stats.json beside the shards; return the content of stats.json."""
    write_array(manifest.directory / MEAN_IMAGE, stats.mean_image)
    value = content(stats, manifest, pca=pca)
    write_json(manifest.directory / STATS, value)
    return value


def content(stats: Stats, manifest: Manifest, *, pca: bool) -> dict[str, Any]:
    """Return the content of stats.json."""
    value = stats.to_json(pca=pca) | {"plan": manifest.plan, "counted": "pixels of the finished records, after any JPEG encoding"}
    return value | {"sha256": _digest(value, stats.mean_image)}


def _digest(value: dict[str, Any], image: Float32[np.ndarray, "s s 3"]) -> str:
    """Return the SHA-256 of the numbers of stats.json and of the mean image beside it."""
    numbers = {name: value[name] for name in NUMBERS if name in value}
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image, "<f4").tobytes())
    return digest.hexdigest()


def stats_for(manifest: Manifest, split: str) -> Stats:
    """Return the statistics to use for views of `split`. They are the training split's; without a training split, its own."""
    return load_stats(manifest, "train" if "train" in manifest.splits else split)


def load_stats(manifest: Manifest, split: str = "train") -> Stats:
    """Return the statistics that `alexprep stats --pca` wrote for these shards.

    If it has not run for them, add up the sidecars. Raise DataError if the files are damaged.
    """
    path = manifest.directory / STATS
    value = read_json(path) if path.is_file() else {}
    if not isinstance(value, dict) or value.get("plan") != manifest.plan or value.get("split") != split or "eigenvectors" not in value:
        return compute_stats(manifest, split)
    try:
        image = read_array(manifest.directory / MEAN_IMAGE, 8 * 3 * manifest.config.size**2).astype(np.float32)
        names = {"mean": (3,), "covariance": (3, 3), "eigenvalues": (3,), "eigenvectors": (3, 3)}
        arrays = {name: np.array(value[name], np.float64) for name in names}
        if {name: array.shape for name, array in arrays.items()} != names or image.shape != (manifest.config.size,) * 2 + (3,):
            raise ValueError("an array has another shape than it should have")
        for name, (low, high) in {"eigenvalues": (0, 3 * 255**2), "eigenvectors": (-1.001, 1.001), "mean": (0, 255)}.items():
            if not ((low <= arrays[name]) & (arrays[name] <= high)).all():
                raise ValueError(f"{name} must be within {low}..{high}")
        if not all(np.isfinite(array).all() for array in (arrays["covariance"], image)):
            raise ValueError("a number is not finite")
        if "sha256" in value and value["sha256"] != _digest(value, image):
            raise ValueError("the numbers are not those that were written")
        return Stats(split, int(value["images"]), int(value["pixels"]), Colours(**arrays), image)
    except (DataError, OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} or {MEAN_IMAGE} beside it is damaged ({error}); run alexprep stats --pca again") from error


def check_written(manifest: Manifest, split: str) -> None:
    """Raise DataError if a shard of `split` has a wrong checksum. Missing shards are ignored: `Records` reports them."""
    for shard in manifest.split(split).shards:
        path = manifest.directory / shard.file
        if path.is_file() and file_sha256(path) != shard.sha256:
            raise DataError(f"{path} is not as it was written (its SHA-256 differs); alexprep repair makes it again")


class StatsCheck:
    """Recomputes a split's checksums, and its moments from its pixels, one record at a time."""

    def __init__(self, manifest: Manifest, split: str = "train") -> None:
        """Open the records of `split`; raise DataError if a shard has a wrong checksum."""
        check_written(manifest, split)
        self._manifest, self._split = manifest, split
        self.records = Records(manifest, split)
        self._counter = MomentsCounter(manifest.config.size)

    def count(self, record: int) -> None:
        """Decode and count one record; raise DataError, which names it, if it is damaged."""
        self._counter.add(self.records.pixels(record))

    def finish(self) -> None:
        """Raise DataError unless every sum is the same integer as the sidecars' sum."""
        if self._counter.moments() != self._manifest.moments(self._split):
            raise DataError(
                f"{self._manifest.directory}: the sums recomputed from the pixels are not those of the sidecars: "
                "a shard or a sidecar was changed after it was written. Delete the folder and run alexprep shard again"
            )
