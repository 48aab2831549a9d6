"""The arithmetic that sharding spends its own time on, compiled if there was a compiler: JPEG, shrinking, the sums of moments.

In:  JPEG bytes, uint8[h,w,3] images.    Out: uint8[size,size,3], JPEG bytes, and sums of integers.

Every function has a plain twin, which says what it computes and takes its place without the extension. The bits are the same.
"""

import io
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, get_args

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float32, Int32, Shaped, UInt8, UInt16, UInt64
from PIL import Image

from ..config import Dtype, Subsampling


def _load() -> Any:  # noqa: ANN401  (a module, compiled from native/)
    try:
        kernels = import_module("._kernels", __package__)
    except ImportError:  # it was installed without a compiler
        return None
    if kernels.runs_avx2():
        with suppress(ImportError):  # the compiler was too old
            return import_module("._kernels_avx2", __package__)
    return kernels


_kernels = _load()

COMPILED = _kernels is not None
USES_AVX2 = COMPILED and _kernels.__name__.endswith("_avx2")
HAS_AVX2 = COMPILED and bool(_kernels.runs_avx2())  # the processor
MAX_PIXELS = 178_956_970  # 512 MiB of RGB: what Pillow refuses as a decompression bomb; larger than ImageNet's largest by far
NUMBERS = get_args(Dtype)  # that a view may consist of, in the order of native/views.h
IMAGES_IN_16_BITS = 257  # of uint8 add up to at most 65535
START_OF_SCAN = 0xDA  # a JPEG's marker
_AS_OPENCV = COMPILED and platform.machine() == "x86_64"  # elsewhere OpenCV's own build may fuse multiplications and additions


class Square(NamedTuple):
    """The central square of an image, its shorter side scaled, and how large the image was."""

    pixels: UInt8[np.ndarray, "s s 3"]
    height: int
    width: int


def jpeg_square(data: bytes, size: int) -> Square | None:
    """Decode a JPEG and shrink its central square as `area_square` does, computing only what the square needs.

    None for whatever is not a baseline JPEG of the usual kind in good order, or is to be enlarged, or has a whole scale:
    `images.square` does the same of any image, by libjpeg and OpenCV.
    """
    if not _AS_OPENCV:
        return None
    pixels = np.empty((size, size, 3), np.uint8)
    sides = _kernels.jpeg_square(data, pixels, MAX_PIXELS)
    return sides and Square(pixels, *sides)


def stored_strings(blocks: list[Any], rows: Shaped[np.ndarray, "b"]) -> tuple[Any, Any] | None:
    """Return Arrow's two capsules of a binary_view array: the bytes of a row (int64) of each block, (data, offsets or None, ...), where they are.

    Row i of `data` is data[i] or, with offsets, data[offsets[i] : offsets[i + 1]]. None without the extension: then `columns.byte_strings` makes
    the same of the bytes.
    """
    return _kernels.stored_strings(blocks, rows) if COMPILED else None


def decode_jpeg(data: bytes | UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of a JPEG as libjpeg-turbo gives them; ValueError at the least irregularity.

    Compiled for a baseline JPEG in grey or YCbCr in good order; libjpeg decides about the rest.
    """
    pixels = decode_region(data)
    return plain_decode_jpeg(data) if pixels is None else pixels


def decode_region(data: bytes | UInt8[np.ndarray, "n"], *box: tuple[int, int, int, int]) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return that part (left, top, right, bottom; all of them without) of `decode_jpeg`'s pixels; None where libjpeg has to decide."""
    decoded = _kernels.decode_jpeg(data, MAX_PIXELS, *box) if COMPILED else None
    if decoded is None:
        return None
    pixels, height, width = decoded
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def plain_decode_jpeg(data: bytes | UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "h w 3"]:
    """Do as `decode_jpeg` does, by libjpeg."""
    with _refusals():
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)


def jpeg_header(data: bytes | UInt8[np.ndarray, "n"]) -> tuple[int, int, str]:
    """Return (height, width, colours: "YCbCr", "Gray", ...) of a JPEG; ValueError if libjpeg-turbo's binding cannot read them."""
    with _refusals():
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    return height, width, colours


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn whatever libjpeg-turbo's binding raises of an image into a ValueError: a KeyError of sampling 1x4, for example."""
    try:
        yield
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"libjpeg-turbo's binding fails: {type(error).__name__}: {error}") from error


class Encoded(NamedTuple):
    """A JPEG, and what its readers will see."""

    data: bytes
    pixels: UInt8[np.ndarray, "s s 3"]


def encode_jpeg(image: UInt8[np.ndarray, "s s 3"], quality: int, subsampling: Subsampling = "444") -> Encoded:
    """Return `image` as the JPEG that libjpeg writes, with its accurate DCT, and the pixels that decoding will give.

    These cost an inverse DCT, but no Huffman decoding, which is most of a decoder's work.
    """
    if not COMPILED:
        return plain_encode_jpeg(image, quality, subsampling)
    pixels = np.empty_like(image, order="C")
    return Encoded(_kernels.encode_jpeg(np.ascontiguousarray(image), pixels, _header(len(image), quality, subsampling)), pixels)


def plain_encode_jpeg(image: UInt8[np.ndarray, "s s 3"], quality: int, subsampling: Subsampling = "444") -> Encoded:
    """Do as `encode_jpeg` does, by libjpeg: Pillow's, since simplejpeg takes a hastier DCT below quality 96."""
    data = _pillow(image, quality, subsampling)
    return Encoded(data, plain_decode_jpeg(data))


def _pillow(image: UInt8[np.ndarray, "h w 3"], quality: int, subsampling: Subsampling) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling={"444": 0, "420": 2}[subsampling])
    return file.getvalue()


@lru_cache
def _header(size: int, quality: int, subsampling: Subsampling) -> bytes:
    """Return what libjpeg writes before the compressed data of every square of that size."""
    data = _pillow(np.zeros((size, size, 3), np.uint8), quality, subsampling)
    at = 2
    while True:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        at += 2 + length
        if marker == START_OF_SCAN:
            return data[:at]


class Recipe(NamedTuple):
    """How records become views."""

    size: int  # pixels a side of a record
    crop: int  # and of a view
    views: int  # a record
    planes: bool  # a view is [3,c,c], not [c,c,3]
    kind: int  # of NUMBERS
    scale: float
    before: Float32[np.ndarray, "..."] | None  # subtracted from the record's pixels: [3,s,s], or [s,s,4] if not planes
    after: Float32[np.ndarray, "..."] | None  # subtracted from the view at last: [3,c,c] or [c,c,4]


def render(
    images: list[Any],
    raw: bool,  # noqa: FBT001  (a fact of the records)
    windows: Int32[np.ndarray, "b v 3"],
    offsets: Float32[np.ndarray, "b 3"],
    out: Shaped[np.ndarray, "b v ..."],
    recipe: Recipe,
    first: int,
    count: int,
) -> list[int]:
    """Make the views of `count` records from the `first` on, into their places in `out`; return the numbers of those left to do.

    A view's pixels, less `before`, cut out and mirrored by its window (top, left, flip), less the record's `offsets`, times
    `scale`, less `after`: in float32, in this order, then rounded to the number of `out`. Left to do, by
    `cpu.plain_views`, is everything without the extension, and else a JPEG that is damaged or not of the usual kind.
    """
    if not COMPILED:
        return list(range(first, first + count))
    facts = (recipe.size, recipe.crop, recipe.views, recipe.planes, recipe.kind, recipe.scale)
    left: list[int] = _kernels.render(images, raw, windows, offsets, recipe.before, recipe.after, out, facts, first, count)
    return left


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
