"""The arithmetic that sharding spends its own time on, compiled if there was a compiler: shrinking, and the sums of moments.

In:  uint8[h,w,3] images.    Out: uint8[size,size,3], and sums of integers.

Every function has a plain twin, which says what it computes and takes its place without the extension. The bits are the same.
"""

import platform
import sys
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16, UInt64

try:
    _kernels: Any = import_module("._kernels", __package__)  # _kernels.c
except ImportError:  # it was installed without a compiler
    _kernels = None

COMPILED = _kernels is not None
IMAGES_IN_16_BITS = 257  # of uint8 add up to at most 65535
_AS_OPENCV = COMPILED and platform.machine() == "x86_64"  # elsewhere OpenCV's own build may fuse multiplications and additions


def area_square(image: UInt8[np.ndarray, "h w 3"], scaled: tuple[int, int], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Return the central `size` x `size` pixels of `image` shrunk to `scaled` (height, width), by OpenCV's INTER_AREA.

    Only the rows and columns that the square needs are computed, each row once: a fifth of OpenCV's time for 500x375 to 256. The
    rest goes to OpenCV, which sums integers, and fast, where both scales are whole.
    """
    if not _AS_OPENCV or all(map(_is_whole, image.shape[:2], scaled)):
        return plain_area_square(image, scaled, size)
    square = np.empty((size, size, 3), np.uint8)
    _kernels.area_square(np.ascontiguousarray(image), *scaled, square)
    return square


def _is_whole(side: int, scaled: int) -> bool:
    scale = 1 / (scaled / side)  # in this order, as OpenCV does
    return abs(scale - round(scale)) < sys.float_info.epsilon


def plain_area_square(image: UInt8[np.ndarray, "h w 3"], scaled: tuple[int, int], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Do as `area_square` does, by OpenCV."""
    height, width = scaled
    top, left = (height - size) // 2, (width - size) // 2
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized[top : top + size, left : left + size])


def count_moments(image: UInt8[np.ndarray, "s s 3"], pixel_sum: UInt16[np.ndarray, "s s 3"], outer: UInt64[np.ndarray, "6"]) -> None:
    """Add `image` to `pixel_sum`, and the sums of its products RR, RG, RB, GG, GB, BB to `outer`."""
    if COMPILED:
        _kernels.count_moments(np.ascontiguousarray(image), pixel_sum, outer)
    else:
        plain_count_moments(image, pixel_sum, outer)


def plain_count_moments(image: UInt8[np.ndarray, "s s 3"], pixel_sum: UInt16[np.ndarray, "s s 3"], outer: UInt64[np.ndarray, "6"]) -> None:
    """Do as `count_moments` does, by numpy.

    The products are summed in float64: every partial sum is an integer below 2**53 (255**2 * 4096**2 is below 2**41), so that
    the result is exact in whatever order it is taken. Plane by plane this takes half as long as one matrix product.
    """
    planes = [plane.ravel().astype(np.float64) for plane in cv2.split(image)]
    outer += np.array([planes[i] @ planes[j] for i in range(3) for j in range(i, 3)]).astype(np.uint64)
    pixel_sum += image
