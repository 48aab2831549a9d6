"""Define the views of a record: crop windows, and the means and divisor applied to the pixels.

Both engines (cpu_engine.py, and dali_engine.py with DALI) use these definitions.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from ..config import LoaderConfig
from ..errors import DataError
from ..shards.stats import Stats


class Window(NamedTuple):
    """Offset of a view in pixels, and whether it is mirrored: numbers, or one per sample."""

    top: Any
    left: Any
    flip: Any


class StepInput(NamedTuple):
    """One step's input: b records and their draws. The arrays are fresh; engines may keep them."""

    images: list[UInt8[np.ndarray, "..."]]
    labels: Int64[np.ndarray, "b"]
    records: Int64[np.ndarray, "b"]
    shift: Float32[np.ndarray, "b 3"]  # PCA colour, grey levels
    # top, left, flip of random views; None for fixed windows
    windows: tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"], Bool[np.ndarray, "b"]] | None


def windows(view: str, room: int) -> list[Window]:
    """Return the fixed windows of "center" or "ten" (paper, section 4.1).

    "ten" is the four corners and the centre, then their mirrors. The order is that of torchvision's
    TenCrop: the second five are the same corners of the mirrored image.
    """
    middle = room // 2
    five = [(0, 0), (0, room), (room, 0), (room, room), (middle, middle)]
    if view == "center":
        return [Window(middle, middle, 0)]
    return [Window(top, left, 0) for top, left in five] + [Window(top, room - left, 1) for top, left in five]


def placed(inputs: StepInput, fixed: list[Window]) -> list[list[Window]]:
    """Return the windows of each record of `inputs`: its drawn one, or `fixed` if none was drawn."""
    if inputs.windows is None:
        return [fixed] * len(inputs.images)
    return [[Window(*window)] for window in zip(*(part.tolist() for part in inputs.windows), strict=True)]


def divisor(config: LoaderConfig) -> float:
    """Return the divisor of a view: `divide` for random views with colour, else 1."""
    return config.divide if config.view == "random" and config.colour else 1.0


def channel_mean(config: LoaderConfig, stats: Stats | None) -> Float32[np.ndarray, "3"]:
    """Return the channel means, which are subtracted from every pixel; 0 unless mean="channel".

    Raises DataError if they are needed and there are no statistics.
    """
    if config.mean != "channel":
        return np.zeros(3, np.float32)
    if stats is None:
        raise DataError('mean="channel" needs the statistics of the training split')
    return stats.colours.mean.astype(np.float32)


def center_mean(stats: Stats | None, crop: int, divide: float) -> Float32[np.ndarray, "c c 3"]:
    """Return the centre crop of the mean image, divided by `divide` as the views are."""
    image = mean_image(stats)
    start = (image.shape[0] - crop) // 2
    return image[start : start + crop, start : start + crop] * (np.float32(1) / np.float32(divide))


def mean_image(stats: Stats | None) -> Float32[np.ndarray, "s s 3"]:
    """Return the mean image; DataError if there are no statistics."""
    if stats is None:
        raise DataError('mean="pixel" and mean="center" need the mean image of the training split')
    return np.ascontiguousarray(stats.mean_image)
