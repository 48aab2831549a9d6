"""What a view of a record is: where it is cut out, and the arithmetic from its pixels to the numbers that a network sees.

Both engines (cpu.py, and graph.py with DALI) and the reference say the same with these.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from ..config import LoaderConfig
from ..errors import DataError
from ..shards.stats import Stats


class Window(NamedTuple):
    """Where a view is cut out: pixel offsets, then mirrored or not. Numbers, or one a sample."""

    top: Any
    left: Any
    flip: Any


class StepInput(NamedTuple):
    """One step's input: b records with their views. The arrays are fresh: an engine may keep them."""

    images: list[UInt8[np.ndarray, "..."]]
    labels: Int64[np.ndarray, "b"]
    records: Int64[np.ndarray, "b"]
    shift: Float32[np.ndarray, "b 3"]  # PCA colour, grey levels
    windows: tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"], Bool[np.ndarray, "b"]] | None  # top, left, flip of random views


def windows(view: str, room: int) -> list[Window]:
    """Return the fixed windows of "center" or "ten" (paper, section 4.1): corners and centre, then their mirrors.

    The order is that of torchvision's TenCrop: the second five are the same corners of the mirrored image.
    """
    middle = room // 2
    five = [(0, 0), (0, room), (room, 0), (room, room), (middle, middle)]
    if view == "center":
        return [Window(middle, middle, 0)]
    return [Window(top, left, 0) for top, left in five] + [Window(top, room - left, 1) for top, left in five]


def placed(feed: StepInput, fixed: list[Window]) -> list[list[Window]]:
    """Return where the views of each record of a feed are cut out: one drawn for it, or the `fixed` ones if it has none."""
    if feed.windows is None:
        return [fixed] * len(feed.images)
    return [[Window(*window)] for window in zip(*(part.tolist() for part in feed.windows), strict=True)]


def divisor(config: LoaderConfig) -> float:
    """Return what a view is divided by."""
    return config.divide if config.view == "random" and config.colour else 1.0


def channel_mean(config: LoaderConfig, stats: Stats | None) -> Float32[np.ndarray, "3"]:
    """Return what is subtracted from every pixel alike: the channel means, or nothing if the mean is an image."""
    if config.mean != "channel":
        return np.zeros(3, np.float32)
    if stats is None:
        raise DataError('mean="channel" needs the statistics of the training split')
    return stats.colours.mean.astype(np.float32)


def center_mean(stats: Stats | None, crop: int, divide: float) -> Float32[np.ndarray, "c c 3"]:
    """Return the centre crop of the mean image, divided like the view that it is subtracted from."""
    image = mean_image(stats)
    start = (image.shape[0] - crop) // 2
    return image[start : start + crop, start : start + crop] * (np.float32(1) / np.float32(divide))


def mean_image(stats: Stats | None) -> Float32[np.ndarray, "s s 3"]:
    """Return the mean image; DataError if there are no statistics."""
    if stats is None:
        raise DataError('mean="pixel" and mean="center" need the mean image of the training split')
    return np.ascontiguousarray(stats.mean_image)
