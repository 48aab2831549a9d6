"""Decode one image, and cut out its central square at the size of a record.

No other code looks at encoded pixels before DALI. The recipe is that of the paper's authors
(cuda-convnet2's make-data): the shorter side is scaled to 256, with OpenCV's INTER_AREA when
shrinking and INTER_CUBIC when enlarging; then the central square is taken. EXIF orientation is
ignored, as torchvision and TensorFlow do, and as the authors did.

In:  source bytes, or the bytes of a JPEG record.    Out: uint8[h,w,3] pixels; 256x256 for records.
"""

import io
import warnings

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from ..errors import UndecodableImage
from .kernels import MAX_PIXELS, Square, area_square, decode_jpeg, jpeg_header, jpeg_square

MAGIC = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")  # PNG chunks that are needed for the pixels
# JPEG markers that are not needed for the pixels: APP1 to APP13, APP15, comments.
NEEDLESS = (*range(0xE1, 0xEE), 0xEF, 0xFE)
# Accepted formats, recognised by content; the file's name is ignored.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image in `data` as RGB; raise UndecodableImage with the reason.

    JPEGs are decoded by our own decoder or libjpeg-turbo. Pillow decodes CMYK, other formats, and
    JPEGs at which libjpeg warns. All decoders give the same pixels (tests compare them). Pillow
    refuses a file that ends too early. A file that has its end, but damaged data before it, is
    decoded as far as libjpeg can repair it, as every other reader of ImageNet does.
    """
    if not data:
        raise UndecodableImage("empty file")
    if data.startswith(b"\xff\xd8"):
        image = _decode_jpeg(data)
        if image is not None:
            return image
    try:
        return _decode_any(data)
    except UndecodableImage:
        bare = without_metadata(data)
        if bare == data:
            raise
    return _decode_any(bare)


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        height, width, colours = jpeg_header(data)
        if width * height > MAX_PIXELS:
            raise UndecodableImage(f"too large: {width}x{height} pixels; at most {MAX_PIXELS} in all are decoded")
        if colours in ("YCbCr", "Gray"):
            return decode_jpeg(data)
    except ValueError:
        pass  # Pillow reports what is wrong, or can decode it
    return None


def _decode_any(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about odd EXIF blocks and palettes
            # Image.open refuses images of more than MAX_PIXELS.
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.mode in ("I", "F"):
                    raise UndecodableImage(f"pixels of 32 bits (mode {image.mode}) have no fixed range; convert it to 8 bits")
                if image.mode.startswith("I;16"):  # 16-bit grey: Pillow's conversion clips at 255
                    grey = (np.asarray(image) >> 8).astype(np.uint8)
                    return np.repeat(grey[:, :, None], 3, axis=2)
                return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        known = (
            "WebP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else next((name for magic, name in MAGIC.items() if data.startswith(magic)), None)
        )
        if known:
            raise UndecodableImage(f"a {known} whose header is damaged") from error
        raise UndecodableImage(f"not an image of a known format; it begins with {data[:16]!r}") from error
    except (UndecodableImage, MemoryError):
        raise  # a MemoryError is not a fault of the image
    except Exception as error:  # decoders raise anything on hostile bytes
        raise UndecodableImage(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def without_metadata(data: bytes) -> bytes:
    """Return a PNG or a JPEG without the parts that its pixels do not need; other files unchanged.

    A text chunk that is too long, a time chunk with a wrong checksum or a broken colour profile
    makes decoders refuse an image whose pixels are intact.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _bare_png(data)
    return _bare_jpeg(data) if data.startswith(b"\xff\xd8") else data


def _bare_png(data: bytes) -> bytes:
    parts, at = [data[:8]], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        # An unknown critical chunk, or one that is cut off, is kept: the decoder judges it.
        if kind in PIXELS or kind[:1].isupper() or end > len(data):
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])


def _bare_jpeg(data: bytes) -> bytes:
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xDA, 0xFF):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] not in NEEDLESS:
            parts.append(data[at:end])
        at = end
    return b"".join([*parts, data[at:]])


def central_square(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Scale the shorter side of `image` to `size` and return the central `size` x `size` pixels.

    Raise UndecodableImage for a strip so thin that its enlarged copy would exceed MAX_PIXELS.
    """
    short = min(image.shape[:2])
    height, width = (int(side * size / short + 0.5) for side in image.shape[:2])
    if short != size:
        if width * height > MAX_PIXELS:
            raise UndecodableImage(f"too thin: {image.shape[1]}x{image.shape[0]} would become {width}x{height} pixels")
        if short > size:
            return area_square(image, (height, width), size)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def square(data: bytes, size: int) -> Square:
    """Return the `central_square` of the image in `data`. Raise UndecodableImage, with the reason, if there is none."""
    try:
        made = jpeg_square(data, size)
        if made is None:
            image = decode(data)
            made = Square(central_square(image, size), *image.shape[:2])
    except (UndecodableImage, MemoryError):
        raise
    except Exception as error:  # anything that a library raises concerns this one image
        raise UndecodableImage(f"cannot be decoded: {type(error).__name__}: {error}") from error
    return made


def decode_record(data: bytes | UInt8[np.ndarray, "n"], size: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of a JPEG record. Raise UndecodableImage at any irregularity, and if the record is not `size` x `size` pixels."""
    try:
        pixels = decode_jpeg(data)
    except ValueError as error:
        raise UndecodableImage(f"the JPEG record is damaged: {error}") from error
    if size is not None and pixels.shape[:2] != (size, size):
        raise UndecodableImage(f"the record is of {pixels.shape[1]}x{pixels.shape[0]} pixels instead of {size}x{size}")
    return pixels


def use_one_thread() -> None:
    """Keep OpenCV from starting threads, for a process that is one of many."""
    cv2.setNumThreads(1)
