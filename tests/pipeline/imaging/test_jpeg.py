"""The compiled JPEG codec gives the bits of libjpeg, declines what it does not understand, and touches no memory but its own."""

import io
import os
import shlex
import subprocess
import sys
import sysconfig
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from alexprep.pipeline.imaging import kernels
from alexprep.pipeline.imaging.codec import central_square, decode, square
from alexprep.pipeline.imaging.kernels import COMPILED, MAX_PIXELS, encode_jpeg, jpeg_square, plain_decode_jpeg, plain_encode_jpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from ...support.images import noise, picture, saved
from ...support.paths import ROOT
from .test_kernels import CC

ImageFile.MAXBLOCK = 1 << 20  # Pillow's own guess is too small for noise at the best quality
SQUARES = kernels._AS_OPENCV  # elsewhere, OpenCV shrinks
any_time = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pixels_of(module, data, *box):
    decoded = module.decode_jpeg(data, MAX_PIXELS, *box)
    return decoded and np.frombuffer(decoded[0], np.uint8).reshape(decoded[1], decoded[2], 3)


@st.composite
def images(draw, smallest=1, largest=90):
    height, width = draw(st.integers(smallest, largest)), draw(st.integers(smallest, largest))
    seed = draw(st.integers(0, 99))
    kind = draw(st.sampled_from(["noise", "picture", "extremes", "flat"]))
    if kind == "noise":
        return noise(height, width, 3, seed=seed)
    if kind == "picture":
        return picture(seed, height, width)
    if kind == "extremes":
        return (noise(height, width, 3, seed=seed) >> 7) * np.uint8(255)
    return np.full((height, width, 3), noise(3, seed=seed), np.uint8)


@st.composite
def jpegs(draw, smallest=1, largest=90):
    """Baseline JPEGs of every kind that the codec knows: sampling, quality, Huffman codes of their own, restart markers, grey."""
    options = {"quality": draw(st.integers(1, 100)), "subsampling": draw(st.sampled_from([0, 1, 2])), "optimize": draw(st.booleans())}
    restart = draw(st.sampled_from([{}, {}, {"restart_marker_blocks": 1}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}]))
    image = draw(images(smallest, largest))
    return saved(image[:, :, 0] if draw(st.integers(0, 5)) == 0 else image, **options, **restart)


@any_time
@given(data=jpegs())
def test_decoding_gives_libjpegs_bits(compiled, data):
    decoded = pixels_of(compiled, data)

    assert decoded is None or np.array_equal(decoded, plain_decode_jpeg(data))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [5, 75, 95, 100])
@pytest.mark.parametrize("more", [{}, {"optimize": True}, {"restart_marker_blocks": 2}, {"restart_marker_rows": 1}])
def test_the_usual_kinds_are_decoded_and_not_declined(compiled, subsampling, quality, more):
    for image in (picture(1, 75, 100), picture(1, 75, 100)[:, :, 0], noise(33, 47, 3)):
        data = saved(image, quality=quality, subsampling=subsampling, **more)

        assert np.array_equal(pixels_of(compiled, data), plain_decode_jpeg(data))
        assert not SQUARES or np.array_equal(jpeg_square(data, 25).pixels, central_square(plain_decode_jpeg(data), 25))


@pytest.mark.process
@any_time
@given(data=jpegs(), draw=st.data())
def test_a_part_is_that_part_of_the_whole(compiled, data, draw):
    whole = pixels_of(compiled, data)
    if whole is None:
        return
    (y0, y1), (x0, x1) = (sorted(draw.draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True))) for side in whole.shape[:2])
    part = pixels_of(compiled, data, (x0, y0, x1, y1))

    assert np.array_equal(part, whole[y0:y1, x0:x1])


@pytest.mark.parametrize("box", [(0, 0, 31, 20), (0, 0, 30, 21), (-1, 0, 5, 5), (5, 5, 5, 9), (7, 5, 6, 9), (0, 2**31 - 1, 5, 2**31 - 1)])
def test_a_part_outside_the_image_is_declined(compiled, box):
    assert compiled.decode_jpeg(saved(picture(0, 20, 30)), MAX_PIXELS, box) is None


@pytest.mark.process
@any_time
@given(data=jpegs(smallest=8, largest=200), size=st.sampled_from([8, 21, 32, 64]))
def test_the_square_of_a_jpeg_is_that_of_its_pixels(compiled, data, size):
    image = plain_decode_jpeg(data)
    made = jpeg_square(data, size)

    assert made is None or (np.array_equal(made.pixels, central_square(image, size)) and (made.height, made.width) == image.shape[:2])


def test_square_takes_any_image(compiled):
    png = io.BytesIO()
    Image.fromarray(picture(3, 50, 70)).save(png, "PNG")

    for data in (png.getvalue(), saved(picture(3, 50, 70)), saved(picture(3, 50, 70), progressive=True), saved(picture(3, 20, 21))):
        made = square(data, 32)
        assert np.array_equal(made.pixels, central_square(decode(data), 32))
        assert (made.height, made.width) == decode(data).shape[:2]


@any_time
@given(
    image=images(8).map(lambda image: image[: min(image.shape[:2]), : min(image.shape[:2])]),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from(["444", "420"]),
)
def test_encoding_gives_libjpegs_bytes_and_the_pixels_that_readers_see(compiled, image, quality, subsampling):
    assert kernels._kernels is compiled
    encoded, expected = encode_jpeg(image, quality, subsampling), plain_encode_jpeg(image, quality, subsampling)

    assert encoded.data == expected.data
    assert np.array_equal(encoded.pixels, expected.pixels)


@pytest.mark.process
def test_real_photographs_come_out_of_the_codec_as_out_of_the_libraries(compiled, real_images):
    taken = 0
    files = sorted(real_images.rglob("*.JPEG"))[::10]
    for file in files:
        data = file.read_bytes()
        expected = central_square(decode(data), 256)
        made = jpeg_square(data, 256)
        if made is not None:
            taken += 1
            assert np.array_equal(made.pixels, expected), file
        for subsampling in ("444", "420"):
            assert encode_jpeg(expected, 95, subsampling).data == plain_encode_jpeg(expected, 95, subsampling).data, file
    assert not SQUARES or taken > 0.8 * len(files)


def test_the_twins_take_over_without_the_extension(monkeypatch):
    monkeypatch.setattr(kernels, "COMPILED", False)
    monkeypatch.setattr(kernels, "_AS_OPENCV", False)
    monkeypatch.setattr(kernels, "_kernels", None)
    data = saved(picture(1, 60, 80))

    assert jpeg_square(data, 32) is None
    assert np.array_equal(kernels.decode_jpeg(data), plain_decode_jpeg(data))
    assert encode_jpeg(picture(1, 40, 40), 90).data == plain_encode_jpeg(picture(1, 40, 40), 90).data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
        saved(picture(1), progressive=True),
        saved(picture(1), keep_rgb=True),
        saved(picture(1, 20, 4), subsampling=2),
    ],
    ids=["nothing", "its beginning", "no frame", "progressive", "RGB", "narrow"],
)
def test_what_is_not_of_the_usual_kind_is_left_to_the_library(compiled, data):
    assert compiled.decode_jpeg(data, MAX_PIXELS) is None


def test_sides_that_libjpeg_refuses_are_declined(compiled):
    """A side of 65501 pixels fits into the header; without a compiler the file would be quarantined."""
    data = bytearray(saved(np.zeros((8, 65500, 3), np.uint8), subsampling=0))
    assert compiled.decode_jpeg(bytes(data), MAX_PIXELS) is not None
    frame = data.index(b"\xff\xc0")
    data[frame + 7 : frame + 9] = (65501).to_bytes(2, "big")  # the same blocks

    assert compiled.decode_jpeg(bytes(data), MAX_PIXELS) is None


def test_cmyk_is_left_to_the_library(compiled):
    file = io.BytesIO()
    Image.fromarray(picture(1)).convert("CMYK").save(file, "JPEG")

    assert compiled.decode_jpeg(file.getvalue(), MAX_PIXELS) is None


def test_a_jpeg_cut_anywhere_is_declined(compiled):
    data = saved(picture(2, 24, 40), restart_marker_blocks=2)

    assert compiled.decode_jpeg(data, MAX_PIXELS) is not None
    assert all(compiled.decode_jpeg(data[:end], MAX_PIXELS) is None for end in range(len(data)))


def test_restart_markers_in_the_wrong_order_are_declined(compiled):
    data = bytearray(saved(picture(2, 24, 40), restart_marker_blocks=2))
    data[data.index(b"\xff\xd1") + 1] = 0xD2

    assert compiled.decode_jpeg(bytes(data), MAX_PIXELS) is None


def test_an_image_larger_than_allowed_is_declined_by_its_header(compiled):
    header = bytearray(saved(picture(1)))
    frame = header.index(b"\xff\xc0")
    header[frame + 5 : frame + 9] = (65535).to_bytes(2, "big") * 2

    assert compiled.decode_jpeg(bytes(header), MAX_PIXELS) is None
    assert compiled.decode_jpeg(saved(picture(1, 20, 30)), 599) is None
    assert compiled.decode_jpeg(saved(picture(1, 20, 30)), 600) is not None


@pytest.mark.process
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=jpegs(largest=40), draw=st.data())
def test_a_damaged_jpeg_is_declined_or_decoded_as_libjpeg_decodes_it(compiled, data, draw):
    content = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(content) - 1))
        content[at] = draw.draw(st.integers(0, 255))
    decoded = pixels_of(compiled, bytes(content))
    made = np.empty((8, 8, 3), np.uint8)
    compiled.jpeg_square(bytes(content), made, MAX_PIXELS)

    if decoded is not None:
        assert np.array_equal(decoded, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize(
    ("image", "pixels", "quality_header"),
    [
        (noise(8, 9, 3), noise(8, 8, 3), None),
        (noise(8, 8, 3), noise(8, 9, 3), None),
        (noise(8, 8, 4), noise(8, 8, 3), None),
        (noise(8, 8, 3).astype(np.int8), noise(8, 8, 3), None),
        (noise(8, 8, 3), noise(8, 8, 3), b""),
        (noise(8, 8, 3), noise(8, 8, 3), saved(noise(16, 16, 3), subsampling=0)),
        (noise(8, 8, 3), noise(8, 8, 3), saved(noise(8, 8, 3), subsampling=1)),
        (noise(16, 16, 3), noise(16, 16, 3), None),
    ],
)
def test_encoding_refuses_what_does_not_fit(compiled, image, pixels, quality_header):
    header = kernels._header(8, 95, "444") if quality_header is None else quality_header

    with pytest.raises(ValueError, match="must|squares of one size|not the header"):
        compiled.encode_jpeg(image, pixels, header)


def test_encoding_refuses_quantisers_of_zero(compiled):
    header = bytearray(kernels._header(8, 95, "444"))
    header[header.index(b"\xff\xdb") + 5] = 0

    with pytest.raises(ValueError, match="not the header"):
        compiled.encode_jpeg(noise(8, 8, 3), noise(8, 8, 3), bytes(header))


DAMAGE = """
import io, random, sys
import numpy as np
from PIL import Image
sys.path.insert(0, sys.argv[1])
import _kernels

def saved(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()

rng, chance = np.random.default_rng(0), random.Random(0)
pictures = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(40, 40), (33, 17), (8, 90), (70, 5), (1, 9)]]
good = [saved(p, quality=q, subsampling=s, **o) for p in pictures for q in (30, 95, 100) for s in (0, 1, 2)
        for o in ({}, {"optimize": True}, {"restart_marker_blocks": 2})] + [saved(p[:, :, 0]) for p in pictures]
out, pixels = np.empty((16, 16, 3), np.uint8), np.empty((16, 16, 3), np.uint8)
decoded = 0
for round_ in range(int(sys.argv[2])):
    data = bytearray(chance.choice(good))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(data))
        if chance.random() < 0.7:
            data[at] = chance.randrange(256)
        elif chance.random() < 0.5:
            del data[at : at + chance.randrange(30)]
        else:
            data[at:at] = bytes(chance.choices(range(256), k=chance.randrange(30)))
    x0, y0 = chance.randrange(50), chance.randrange(50)
    for box in ((), ((x0, y0, x0 + chance.randrange(1, 40), y0 + chance.randrange(1, 40)),)):
        decoded += _kernels.decode_jpeg(bytes(data), 10**6, *box) is not None
    _kernels.jpeg_square(bytes(data), out, 10**6)
    try:
        _kernels.encode_jpeg(out, pixels, bytes(data[: chance.randrange(600, 700)]))
    except ValueError:
        pass
assert decoded > round_ / 5, decoded
print("decoded", decoded)
"""


@pytest.mark.process
@pytest.mark.parametrize("source", ["module.c", "module_avx2.c"])
def test_no_damage_makes_the_codec_touch_foreign_memory(tmp_path, source):
    """Under AddressSanitizer and UndefinedBehaviorSanitizer, thousands of damaged files."""
    native, library = ROOT / "pipeline" / "imaging" / "native", tmp_path / "_kernels.so"
    flags = [] if source == "module.c" else ["-mavx2", "-mbmi", "-mbmi2"]
    if flags and not (COMPILED and import_module("alexprep.pipeline.imaging._kernels").runs_avx2()):
        pytest.skip("a processor without AVX2")
    main = tmp_path / "main.c"
    main.write_text(f'#define MODULE "_kernels"\n#define INITIALISE PyInit__kernels\n#include "{native}/module.c"\n')
    build = [CC, "-O1", "-g", "-shared", "-fPIC", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fwrapv", "-Wno-psabi", *flags]
    build += [f"-I{sysconfig.get_path('include')}", str(main), "-o", str(library), "-lm"]
    try:
        subprocess.run(build, check=True, capture_output=True)
        runtime = subprocess.run([CC, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no compiler with sanitizers: {error}")
    if not Path(runtime).is_absolute():
        pytest.skip("no libasan")
    environment = os.environ | {"LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", DAMAGE, str(tmp_path), "2500"], capture_output=True, text=True, env=environment, check=False)

    assert done.returncode == 0, done.stderr[-3000:] + shlex.join(build)
