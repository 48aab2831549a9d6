"""Sums over pixels that add up exactly."""

import numpy as np
import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.imaging.moments import Moments, MomentsCounter, colours, mean_image
from hypothesis import given
from hypothesis import strategies as st


def count(images, size):
    counter = MomentsCounter(size)
    for image in images:
        counter.add(image)
    return counter.moments()


def random_images(seed, n, size=6):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@given(st.integers(0, 1000), st.integers(0, 6))
def test_the_counter_agrees_with_integers_written_out(seed, n):
    images = random_images(seed, n)
    flat = [[int(x) for x in pixel] for pixel in images.reshape(-1, 3)]
    moments = count(images, 6)

    assert moments.total == tuple(sum(p[c] for p in flat) for c in range(3))
    assert moments.outer == tuple(tuple(sum(p[a] * p[b] for p in flat) for b in range(3)) for a in range(3))
    assert np.array_equal(moments.pixel_sum, images.astype(np.uint64).sum(0))


@pytest.mark.process
@given(st.integers(0, 1000), st.lists(st.integers(0, 3), min_size=1, max_size=5), st.randoms())
def test_shards_add_up_to_the_same_integers_in_any_order_and_split(seed, sizes, random):
    parts = [random_images(seed + i, n) for i, n in enumerate(sizes)]
    whole = count(np.concatenate(parts), 6)
    random.shuffle(parts)

    assert sum((count(part, 6) for part in parts), Moments.zero(6)) == whole


@pytest.mark.process
def test_white_images_of_the_largest_size_stay_exact():
    white = np.full((4096, 4096, 3), 255, np.uint8)
    moments = count([white], 4096)

    assert moments.total == (255 * 4096**2,) * 3
    assert moments.outer == ((255**2 * 4096**2,) * 3,) * 3


def test_colours_agree_with_numpys_covariance_and_follow_the_sign_rule():
    images = random_images(3, 20)
    flat = images.reshape(-1, 3).astype(np.float64)
    found = colours(count(images, 6))

    assert np.allclose(found.mean, flat.mean(0), rtol=1e-14)
    assert np.allclose(found.covariance, np.cov(flat.T, bias=True), rtol=1e-12)
    assert found.eigenvalues.tolist() == sorted(found.eigenvalues, reverse=True)
    for value, vector in zip(found.eigenvalues, found.eigenvectors, strict=True):
        assert np.allclose(found.covariance @ vector, value * vector)
        assert np.isclose(np.linalg.norm(vector), 1)
        assert vector[np.abs(vector).argmax()] > 0


def test_grey_images_have_one_principal_colour():
    grey = np.repeat(random_images(1, 5)[..., :1], 3, axis=3)
    found = colours(count(grey, 6))

    assert np.allclose(found.eigenvalues[1:], 0, atol=1e-9)
    assert (found.eigenvalues >= 0).all()
    assert np.allclose(found.eigenvectors[0], 3**-0.5)


def test_the_mean_image_is_the_mean_of_each_pixel():
    images = random_images(9, 7)

    assert np.allclose(mean_image(count(images, 6)), images.mean(0), rtol=1e-15)


def test_no_images_have_no_mean():
    with pytest.raises(DataError, match="no image was counted"):
        colours(Moments.zero(8))


def test_moments_survive_json():
    moments = count(random_images(4, 3), 6)

    assert Moments.from_json(moments.to_json(), moments.pixel_sum) == moments


def test_sums_that_do_not_belong_together_are_refused():
    moments = count(random_images(4, 3), 6)

    with pytest.raises(ValueError, match="do not add up"):
        Moments.from_json(moments.to_json(), moments.pixel_sum + np.uint64(1))
