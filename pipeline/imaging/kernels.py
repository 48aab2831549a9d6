"""Compute the hot loops of sharding and loading: JPEG, shrinking, views, the sums of moments.

The loops are compiled if a compiler was found at installation. Every function has a plain twin,
which defines what it computes and replaces it without the extension. Both give the same bits.

In:  JPEG bytes, uint8[h,w,3] images.    Out: uint8[size,size,3], JPEG bytes, and sums of integers.
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
    except ImportError:  # the package was installed without a compiler
        return None
    if kernels.runs_avx2():
        with suppress(ImportError):  # the compiler was too old
            return import_module("._kernels_avx2", __package__)
    return kernels


_kernels = _load()

COMPILED = _kernels is not None
USES_AVX2 = COMPILED and _kernels.__name__.endswith("_avx2")
HAS_AVX2 = COMPILED and bool(_kernels.runs_avx2())  # whether the processor has AVX2
# Maximum pixels of an image: 512 MiB of RGB. Pillow refuses more as a decompression bomb.
# ImageNet's largest image is far smaller.
MAX_PIXELS = 178_956_970
NUMBERS = get_args(Dtype)  # number types of a view, in the order of native/views.h
IMAGES_IN_16_BITS = 257  # number of uint8 images whose sum is at most 65535
START_OF_SCAN = 0xDA  # JPEG marker
# Whether our loops give OpenCV's bits. On other machines than x86-64, OpenCV's own build may fuse
# multiplications and additions.
_AS_OPENCV = COMPILED and platform.machine() == "x86_64"


class Square(NamedTuple):
    """The central square of an image, its shorter side scaled, and the image's original size."""

    pixels: UInt8[np.ndarray, "s s 3"]
    height: int
    width: int


def jpeg_square(data: bytes, size: int) -> Square | None:
    """Decode a JPEG and shrink its central square as `area_square` does.

    Only the pixels that the square needs are computed. Return None for anything but an intact
    baseline JPEG of the usual kind, for one that would be enlarged, and for one whose scale is a
    whole number: `codec.square` does the same for any image, with libjpeg and OpenCV.
    """
    if not _AS_OPENCV:
        return None
    pixels = np.empty((size, size, 3), np.uint8)
    sides = _kernels.jpeg_square(data, pixels, MAX_PIXELS)
    return sides and Square(pixels, *sides)


def stored_strings(blocks: list[Any], rows: Shaped[np.ndarray, "b"]) -> tuple[Any, Any] | None:
    """Return an Arrow binary_view array of stored bytes, as Arrow's two capsules, without a copy.

    Value k is row `rows[k]` (int64) of `blocks[k]`, a tuple (data, offsets or None, ...). Row i of
    `data` is data[i] or, with offsets, data[offsets[i] : offsets[i + 1]]. Return None without the
    extension: then `arrow.byte_strings` makes the same array of the bytes.
    """
    return _kernels.stored_strings(blocks, rows) if COMPILED else None


def decode_jpeg(data: bytes | UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of a JPEG as libjpeg-turbo gives them.

    The compiled code decodes intact baseline JPEGs in grey or YCbCr; libjpeg handles all others.
    Raise ValueError at any irregularity.
    """
    pixels = decode_region(data)
    return plain_decode_jpeg(data) if pixels is None else pixels


def decode_region(data: bytes | UInt8[np.ndarray, "n"], *box: tuple[int, int, int, int]) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return the part `box` (left, top, right, bottom) of `decode_jpeg`'s pixels; all without it.

    Return None where libjpeg has to decide, and without the extension.
    """
    decoded = _kernels.decode_jpeg(data, MAX_PIXELS, *box) if COMPILED else None
    if decoded is None:
        return None
    pixels, height, width = decoded
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def plain_decode_jpeg(data: bytes | UInt8[np.ndarray, "n"]) -> UInt8[np.ndarray, "h w 3"]:
    """Do what `decode_jpeg` does, with libjpeg."""
    with _refusals():
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)


def jpeg_header(data: bytes | UInt8[np.ndarray, "n"]) -> tuple[int, int, str]:
    """Return (height, width, colours) of a JPEG; colours is "YCbCr", "Gray", ... Raise ValueError if libjpeg-turbo's binding cannot read them."""
    with _refusals():
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    return height, width, colours


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn any error of libjpeg-turbo's binding into a ValueError. For example, the binding raises a KeyError for 1x4 subsampling."""
    try:
        yield
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"libjpeg-turbo's binding fails: {type(error).__name__}: {error}") from error


class Encoded(NamedTuple):
    """A JPEG, and the pixels that decoding it gives."""

    data: bytes
    pixels: UInt8[np.ndarray, "s s 3"]


def encode_jpeg(image: UInt8[np.ndarray, "s s 3"], quality: int, subsampling: Subsampling = "444") -> Encoded:
    """Return `image` as the JPEG that libjpeg writes with its accurate DCT, and its decoded pixels.

    The pixels cost an inverse DCT, but no Huffman decoding, which is most of a decoder's work.
    """
    if not COMPILED:
        return plain_encode_jpeg(image, quality, subsampling)
    pixels = np.empty_like(image, order="C")
    return Encoded(_kernels.encode_jpeg(np.ascontiguousarray(image), pixels, _header(len(image), quality, subsampling)), pixels)


def plain_encode_jpeg(image: UInt8[np.ndarray, "s s 3"], quality: int, subsampling: Subsampling = "444") -> Encoded:
    """Do what `encode_jpeg` does, with Pillow's libjpeg. Below quality 96, simplejpeg uses a faster, less accurate DCT."""
    data = _pillow(image, quality, subsampling)
    return Encoded(data, plain_decode_jpeg(data))


def _pillow(image: UInt8[np.ndarray, "h w 3"], quality: int, subsampling: Subsampling) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling={"444": 0, "420": 2}[subsampling])
    return file.getvalue()


@lru_cache
def _header(size: int, quality: int, subsampling: Subsampling) -> bytes:
    """Return what libjpeg writes before the compressed data of any square of this size."""
    data = _pillow(np.zeros((size, size, 3), np.uint8), quality, subsampling)
    at = 2
    while True:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        at += 2 + length
        if marker == START_OF_SCAN:
            return data[:at]


class Recipe(NamedTuple):
    """How records become views."""

    size: int  # pixels per side of a record
    crop: int  # pixels per side of a view
    views: int  # views per record
    planes: bool  # whether a view is [3,c,c] instead of [c,c,3]
    kind: int  # number type of a view: index in NUMBERS
    scale: float
    # Subtracted from the record's pixels: [3,s,s], or [s,s,4] if not planes.
    before: Float32[np.ndarray, "..."] | None
    # Subtracted from the view at the end: [3,c,c], or [c,c,4] if not planes.
    after: Float32[np.ndarray, "..."] | None


def render(
    images: list[Any],
    raw: bool,  # noqa: FBT001  (a property of the records)
    windows: Int32[np.ndarray, "b v 3"],
    offsets: Float32[np.ndarray, "b 3"],
    out: Shaped[np.ndarray, "b v ..."],
    recipe: Recipe,
    first: int,
    count: int,
) -> list[int]:
    """Write the views of `count` records, from `first` on, to `out`; return the records not done.

    A view is the record's pixels, minus `before`, cropped and mirrored by its window (top, left, flip), minus the
    record's `offsets`, times `scale`, minus `after`: in float32, in this order, then rounded to the number type of
    `out`. `cpu_engine.plain_views` has to do the records not done: all of them without the extension; with it, JPEGs
    that are damaged or not of the usual kind.
    """
    if not COMPILED:
        return list(range(first, first + count))
    facts = (recipe.size, recipe.crop, recipe.views, recipe.planes, recipe.kind, recipe.scale)
    left: list[int] = _kernels.render(images, raw, windows, offsets, recipe.before, recipe.after, out, facts, first, count)
    return left


def area_square(image: UInt8[np.ndarray, "h w 3"], scaled: tuple[int, int], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Shrink `image` to `scaled` (height, width) and return its central `size` x `size` pixels.

    The result is that of OpenCV's INTER_AREA. Only the rows and columns that the square needs are
    computed, each row once: a fifth of OpenCV's time for 500x375 to 256. OpenCV itself is used
    where both scales are whole numbers: there it sums integers, which is fast.
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
    """Do what `area_square` does, with OpenCV."""
    height, width = scaled
    top, left = (height - size) // 2, (width - size) // 2
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(resized[top : top + size, left : left + size])


def count_moments(image: UInt8[np.ndarray, "s s 3"], pixel_sum: UInt16[np.ndarray, "s s 3"], outer: UInt64[np.ndarray, "6"]) -> None:
    """Add `image` to `pixel_sum`, and its sums of products RR, RG, RB, GG, GB, BB to `outer`."""
    if COMPILED:
        _kernels.count_moments(np.ascontiguousarray(image), pixel_sum, outer)
    else:
        plain_count_moments(image, pixel_sum, outer)


def plain_count_moments(image: UInt8[np.ndarray, "s s 3"], pixel_sum: UInt16[np.ndarray, "s s 3"], outer: UInt64[np.ndarray, "6"]) -> None:
    """Do what `count_moments` does, with numpy.

    The products are summed in float64. Every partial sum is an integer below 2**53 (255**2 * 4096**2 is below 2**41),
    so the result is exact in any order of summation. Going plane by plane takes half as long as one matrix product.
    """
    planes = [plane.ravel().astype(np.float64) for plane in cv2.split(image)]
    outer += np.array([planes[i] @ planes[j] for i in range(3) for j in range(i, 3)]).astype(np.uint64)
    pixel_sum += image
