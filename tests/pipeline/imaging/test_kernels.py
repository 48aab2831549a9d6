"""The compiled loops give the bits of their plain twins."""

import os
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from alexprep.pipeline.imaging import kernels
from alexprep.pipeline.imaging.kernels import COMPILED, IMAGES_IN_16_BITS, area_square, count_moments, plain_area_square, plain_count_moments
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ...support.images import noise

CC = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]  # the one that setuptools calls
BUILDABLE = shutil.which(CC) is not None and (Path(sysconfig.get_path("include")) / "Python.h").exists()
compiled = pytest.mark.skipif(not COMPILED, reason="installed without a compiler")


def scaled_to(height, width, size):
    short = min(height, width)
    return tuple(int(side * size / short + 0.5) for side in (height, width))


@st.composite
def shrinkings(draw):
    """Height, width and size: any scale, and those next to one, next to a whole one, and whole; squares, strips, either way up."""
    size = draw(st.integers(8, 300))
    near = st.integers(1, 4).flatmap(lambda times: st.integers(-3, 3).map(lambda more: times * size + more))
    short = draw(st.one_of(st.integers(size + 1, 4 * size), near.filter(lambda side: side > size)))
    ratio = draw(st.one_of(st.just(1.0), st.floats(1, 2), st.sampled_from([4 / 3, 3 / 2, 2.0, 5.0])))
    sides = (short, int(short * ratio))
    return *draw(st.permutations(sides)), size


@pytest.mark.skipif(not BUILDABLE, reason="no compiler, or no Python.h")
def test_the_extension_is_there_where_a_compiler_is():
    assert COMPILED


@pytest.mark.process
@settings(max_examples=150, deadline=None)
@given(shrinkings(), st.integers(0, 1000))
@example((375, 500, 256), 0)
@example((500, 333, 256), 0)
@example((257, 256 * 20, 256), 0)
@example((512, 512, 256), 0)
@example((512, 640, 256), 0)
@example((768, 1024, 256), 0)
@example((513, 514, 256), 0)
@example((2000, 2100, 8), 0)
def test_shrinking_gives_opencvs_bits(shrinking, seed):
    height, width, size = shrinking
    image = noise(height, width, 3, seed=seed)
    scaled = scaled_to(height, width, size)

    assert np.array_equal(area_square(image, scaled, size), plain_area_square(image, scaled, size))


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (4, 900), (900, 4), (4, 1001), (5, 7)])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_strips_a_few_pixels_wide_shrink_to_opencvs_bits(shape, size):
    image = noise(*shape, 3)
    scaled = scaled_to(*shape, size)

    assert np.array_equal(area_square(image, scaled, size), plain_area_square(image, scaled, size))


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_an_even_image_stays_even(value):
    image = np.full((375, 500, 3), value, np.uint8)

    assert (area_square(image, (256, 341), 256) == value).all()


def test_a_part_of_a_larger_array_shrinks_as_its_copy_does():
    image = noise(80, 120, 6)[::2, ::-1, ::2]

    assert np.array_equal(area_square(image, (30, 90), 30), plain_area_square(image.copy(), (30, 90), 30))


def test_real_photographs_shrink_to_opencvs_bits(real_images):
    from alexprep.pipeline.imaging.codec import decode

    for file in sorted(real_images.rglob("*.JPEG"))[::25]:
        image = decode(file.read_bytes())
        if min(image.shape[:2]) > 256:
            scaled = scaled_to(*image.shape[:2], 256)
            assert np.array_equal(area_square(image, scaled, 256), plain_area_square(image, scaled, 256)), file


@pytest.mark.process
@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 4), st.integers(0, 1000))
def test_moments_are_those_of_numpy(size, images, seed):
    sums = [(np.zeros((size, size, 3), np.uint16), np.zeros(6, np.uint64)) for _ in range(2)]
    for image in noise(images, size, size, 3, seed=seed):
        count_moments(image, *sums[0])
        plain_count_moments(image, *sums[1])

    assert np.array_equal(sums[0][0], sums[1][0])
    assert np.array_equal(sums[0][1], sums[1][1])


def test_sixteen_bits_hold_as_many_white_images_as_they_say():
    white = np.full((3, 3, 3), 255, np.uint8)
    pixel_sum, outer = np.zeros((3, 3, 3), np.uint16), np.zeros(6, np.uint64)
    for _ in range(IMAGES_IN_16_BITS):
        count_moments(white, pixel_sum, outer)

    assert (pixel_sum == 255 * IMAGES_IN_16_BITS).all()
    assert (outer == 9 * 255**2 * IMAGES_IN_16_BITS).all()


def test_more_images_than_sixteen_bits_hold_are_counted_exactly():
    from alexprep.pipeline.imaging.moments import MomentsCounter

    counter = MomentsCounter(2)
    white = np.full((2, 2, 3), 255, np.uint8)
    for number in range(2 * IMAGES_IN_16_BITS + 1):
        counter.add(white)
        if number == 300:  # looking in between changes nothing
            early = counter.moments()
    moments = counter.moments()

    assert early.images == 301
    assert (early.pixel_sum == 301 * 255).all()
    assert moments == counter.moments()
    assert moments.images == 2 * IMAGES_IN_16_BITS + 1
    assert (moments.pixel_sum == 255 * moments.images).all()
    assert moments.outer == ((4 * 255**2 * moments.images,) * 3,) * 3


def test_without_the_extension_the_twins_take_over(monkeypatch):
    monkeypatch.setattr(kernels, "COMPILED", False)
    monkeypatch.setattr(kernels, "_AS_OPENCV", False)
    monkeypatch.setattr(kernels, "_kernels", None)
    image = noise(50, 70, 3)
    square = area_square(image, (30, 42), 30)
    pixel_sum, outer = np.zeros((30, 30, 3), np.uint16), np.zeros(6, np.uint64)
    count_moments(square, pixel_sum, outer)

    assert np.array_equal(square, plain_area_square(image, (30, 42), 30))
    assert np.array_equal(pixel_sum, square)
    assert outer[0] == (square[:, :, 0].astype(int) ** 2).sum()


def read_only(array):
    array.flags.writeable = False
    return array


@compiled
@pytest.mark.parametrize(
    ("image", "height", "width", "square"),
    [
        (noise(30, 40, 4), 20, 27, noise(20, 20, 3)),
        (noise(30, 120), 20, 27, noise(20, 20, 3)),
        (noise(30, 40, 3).astype(np.int8), 20, 27, noise(20, 20, 3)),
        (noise(30, 40, 3).astype(np.uint16), 20, 27, noise(20, 20, 3)),
        (noise(30, 80, 3)[:, ::2], 20, 27, noise(20, 20, 3)),
        (noise(30, 40, 3), 20, 27, noise(20, 21, 3)),
        (noise(30, 40, 3), 20, 27, noise(20, 20, 4)),
        (noise(30, 40, 3), 20, 27, noise(0, 0, 3)),
        (noise(0, 0, 3), 0, 0, noise(0, 0, 3)),
        (noise(30, 40, 3), 20, 27, read_only(noise(20, 20, 3))),
        (noise(30, 40, 3), 20, 27, bytes(1200)),
        (noise(30, 40, 3), 20, 27, np.asfortranarray(noise(20, 20, 3))),
        (noise(30, 40, 3), 19, 27, noise(20, 20, 3)),
        (noise(30, 40, 3), 20, 19, noise(20, 20, 3)),
        (noise(30, 40, 3), 31, 40, noise(20, 20, 3)),
        (noise(30, 40, 3), 30, 41, noise(20, 20, 3)),
        (noise(30, 40, 3), -1, 27, noise(20, 20, 3)),
        (noise(30, 40, 3), 2**62, 27, noise(20, 20, 3)),
    ],
)
def test_shrinking_refuses_buffers_that_do_not_fit(image, height, width, square):
    with pytest.raises(ValueError, match="must|cannot shrink|read-only|contiguous"):
        kernels._kernels.area_square(image, height, width, square)


@compiled
@pytest.mark.parametrize(
    ("image", "pixel_sum", "outer"),
    [
        (noise(5, 5, 3), np.zeros((5, 4, 3), np.uint16), np.zeros(6, np.uint64)),
        (noise(5, 5, 3), np.zeros((4, 5, 3), np.uint16), np.zeros(6, np.uint64)),
        (noise(5, 5, 3), np.zeros((5, 5, 3), np.uint32), np.zeros(6, np.uint64)),
        (noise(5, 5, 3), np.zeros((5, 5, 3), ">u2"), np.zeros(6, np.uint64)),
        (noise(5, 5, 3), np.zeros((5, 5, 3), np.uint16), np.zeros(5, np.uint64)),
        (noise(5, 5, 3), np.zeros((5, 5, 3), np.uint16), np.zeros(6, np.uint32)),
        (noise(5, 5, 3), np.zeros((5, 5, 3), np.uint16), np.zeros((6, 1), np.uint64)),
        (noise(5, 5, 3), np.zeros((5, 5, 3), np.uint16), np.zeros(12, np.uint64)[::2]),
        (noise(5, 5, 3), np.zeros((5, 5, 3), np.uint16), read_only(np.zeros(6, np.uint64))),
        (noise(5, 5, 3), read_only(np.zeros((5, 5, 3), np.uint16)), np.zeros(6, np.uint64)),
        (noise(5, 5), np.zeros((5, 5, 3), np.uint16), np.zeros(6, np.uint64)),
        (noise(5, 5, 4), np.zeros((5, 5, 4), np.uint16), np.zeros(6, np.uint64)),
    ],
)
def test_moments_refuse_buffers_that_do_not_fit(image, pixel_sum, outer):
    with pytest.raises(ValueError, match="must|sums of|64 bits|read-only|contiguous"):
        kernels._kernels.count_moments(image, pixel_sum, outer)


@compiled
def test_what_is_no_buffer_is_a_type_error():
    with pytest.raises(TypeError):
        kernels._kernels.area_square([1, 2], 1, 1, noise(1, 1, 3))
    with pytest.raises(TypeError):
        kernels._kernels.count_moments(noise(1, 1, 3), None, None)
