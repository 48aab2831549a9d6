"""One image: source bytes -> uint8[256,256,3] -> record bytes. The only code that looks at encoded pixels before DALI.

The recipe is that of the paper's authors (cuda-convnet2's make-data): the shorter side scaled to 256 with OpenCV's INTER_AREA
when shrinking and INTER_CUBIC when enlarging, then the central square. EXIF orientation is ignored, as torchvision and TensorFlow
do, and as they did.
"""

import io
import warnings

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from .errors import UndecodableImage
from .kernels import MAX_PIXELS, Square, area_square, decode_jpeg, jpeg_square

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # by content; a name decides nothing


def decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image in `data` as RGB; raise UndecodableImage with the reason.

    A JPEG goes through our own decoder or libjpeg-turbo; CMYK, other formats, and JPEGs at which libjpeg warns, through Pillow. All give
    the same pixels (tests hold them together). Pillow refuses a file that ends too early; one that has its end but damaged
    data before it is decoded as far as libjpeg can mend it, as every other reader of ImageNet does.
    """
    if not data:
        raise UndecodableImage("empty file")
    if data.startswith(b"\xff\xd8"):
        image = _decode_jpeg(data)
        if image is not None:
            return image
    return _decode_any(data)


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if width * height > MAX_PIXELS:
            raise UndecodableImage(f"too large: {width}x{height} pixels; at most {MAX_PIXELS} in all are decoded")
        if colours in ("YCbCr", "Gray"):
            return decode_jpeg(data)
    except ValueError:
        pass  # Pillow says what is wrong with it, or knows better
    return None


def _decode_any(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF blocks and palettes
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # refuses more than MAX_PIXELS by itself
                if image.mode in ("I", "F"):
                    raise UndecodableImage(f"pixels of 32 bits (mode {image.mode}) have no fixed range; convert it to 8 bits")
                if image.mode.startswith("I;16"):  # 16-bit grey: Pillow's own conversion clips at 255
                    grey = (np.asarray(image) >> 8).astype(np.uint8)
                    return np.repeat(grey[:, :, None], 3, axis=2)
                return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise UndecodableImage(f"not an image of a known format; it begins with {data[:16]!r}") from error
    except (UndecodableImage, MemoryError):
        raise  # the latter says nothing about the image
    except Exception as error:  # decoders raise anything on hostile bytes
        raise UndecodableImage(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def central_square(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Return the central `size` x `size` pixels of `image` with its shorter side scaled to `size`.

    Raises UndecodableImage for a strip so thin that its enlarged copy would exceed MAX_PIXELS.
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
    """Return the `central_square` of the image in `data`; raise UndecodableImage with the reason why there is none."""
    made = jpeg_square(data, size)
    if made is None:
        image = decode(data)
        made = Square(central_square(image, size), *image.shape[:2])
    return made


def decode_record(data: bytes | UInt8[np.ndarray, "n"], size: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of a JPEG record; raise UndecodableImage at the least irregularity, or unless it has `size` pixels a side."""
    try:
        pixels = decode_jpeg(data)
    except ValueError as error:
        raise UndecodableImage(f"the JPEG record is damaged: {error}") from error
    if size is not None and pixels.shape[:2] != (size, size):
        raise UndecodableImage(f"the record is of {pixels.shape[1]}x{pixels.shape[0]} pixels instead of {size}x{size}")
    return pixels


def use_one_thread() -> None:
    """Keep OpenCV from starting threads in a process that is one of many."""
    cv2.setNumThreads(1)
