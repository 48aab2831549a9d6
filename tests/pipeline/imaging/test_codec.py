"""Source bytes to records."""

import io

import cv2
import numpy as np
import pytest
from alexprep.pipeline.errors import UndecodableImage
from alexprep.pipeline.imaging.codec import MAX_PIXELS, central_square, decode, decode_record
from alexprep.pipeline.imaging.kernels import encode_jpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ...support.images import jpeg, picture

PICTURE = picture(1)


def saved(kind, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    "data",
    [
        saved("JPEG"),
        saved("JPEG", progressive=True),
        saved("JPEG", subsampling=0),
        saved("JPEG", "L"),
        saved("JPEG", "CMYK"),
        saved("PNG"),
        saved("PNG", "P"),
        saved("PNG", "RGBA"),
        saved("PNG", "L"),
        saved("WEBP"),
        saved("BMP"),
        saved("GIF"),
        saved("TIFF"),
    ],
    ids=["jpeg", "progressive", "444", "grey", "cmyk", "png", "palette", "rgba", "grey png", "webp", "bmp", "gif", "tiff"],
)
def test_every_kind_of_file_decodes_to_the_pixels_that_pillow_gives(data):
    assert np.array_equal(decode(data), pillow(data))


def test_orientation_tags_are_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6

    assert decode(saved("JPEG", exif=exif)).shape == PICTURE.shape


def test_sixteen_bit_grey_keeps_its_high_byte():
    grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")

    assert np.array_equal(decode(buffer.getvalue())[:, :, 1], grey >> 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"a text file", "not an image of a known format; it begins with b'a text file'"),
        (saved("JPEG")[:-100], "truncated"),
        (saved("JPEG")[:100], "cannot be decoded|a JPEG whose header"),
        (saved("PNG")[:-100], "cannot be decoded"),
        (b"\xff\xd8" + b"\0" * 100, "a JPEG whose header is damaged"),
        (saved("TIFF", "F"), "32 bits .* no fixed range"),
    ],
    ids=["empty", "text", "cut body", "cut header", "cut png", "soi only", "float"],
)
def test_what_cannot_be_decoded_says_why(data, reason):
    with pytest.raises(UndecodableImage, match=reason):
        decode(data)


@pytest.mark.process
def test_decompression_bombs_are_refused_by_their_headers():
    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, "PNG", optimize=True)
    header = bytearray(saved("JPEG"))
    frame = header.index(b"\xff\xc0")
    header[frame + 5 : frame + 9] = (60000).to_bytes(2, "big") * 2

    for bomb in (buffer.getvalue(), bytes(header)):
        assert len(bomb) < 100_000
        with pytest.raises(UndecodableImage, match="too large|exceeds limit"):
            decode(bomb)


def test_a_strip_that_would_be_enlarged_beyond_bounds_is_refused():
    strip = np.zeros((1, MAX_PIXELS // 256 // 256 + 1, 3), np.uint8)

    with pytest.raises(UndecodableImage, match="too thin"):
        central_square(strip, 256)


@settings(max_examples=200)
@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF89a", b"II*\0"]),
)
def test_random_bytes_never_do_worse_than_a_reason(data, magic):
    try:
        decode(magic + data)
    except UndecodableImage as error:
        assert str(error)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_jpeg_never_does_worse_than_a_reason(data):
    content = bytearray(jpeg(PICTURE))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(content)).shape[2] == 3
    except UndecodableImage as error:
        assert str(error)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 31, 32]))
def test_the_square_is_cut_from_the_middle_of_the_scaled_image(height, width, size):
    """Against the recipe written out: scale, round half up, INTER_AREA or INTER_CUBIC, crop."""
    image = picture(3, height, width)
    short = min(height, width)
    new = (int(np.floor(width * size / short + 0.5)), int(np.floor(height * size / short + 0.5)))
    resized = image if short == size else cv2.resize(image, new, interpolation=cv2.INTER_AREA if short > size else cv2.INTER_CUBIC)
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2

    assert np.array_equal(central_square(image, size), resized[top : top + size, left : left + size])


def test_a_record_is_a_full_colour_jpeg_close_to_its_pixels():
    square = central_square(picture(5, 300, 300), 256)
    data = encode_jpeg(square, 95).data

    assert Image.open(io.BytesIO(data)).layer[0][1:3] == (1, 1)  # 4:4:4: the luma is not sampled more finely
    assert np.array_equal(decode_record(data), pillow(data))
    assert abs(decode_record(data).astype(int) - square).mean() < 2


def test_a_damaged_record_is_refused():
    with pytest.raises(UndecodableImage, match="damaged"):
        decode_record(encode_jpeg(picture(1, 64, 64), 95).data[:-20])


def test_both_decoders_agree_on_real_photographs(real_images):
    files = sorted(real_images.rglob("*.JPEG"))[::10]

    for file in files:
        data = file.read_bytes()
        assert np.array_equal(decode(data), pillow(data)), file
