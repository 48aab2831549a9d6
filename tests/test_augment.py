"""Which crop, flip and colour shift."""

from statistics import NormalDist

import numpy as np
from alexprep.pipeline.augment import _log, colour_shift, draws, normal
from hypothesis import given
from hypothesis import strategies as st

MANY = np.arange(200_000)


def test_the_draws_are_fixed_for_ever():
    """Golden values: receipts and resumed runs rely on them."""
    drawn = draws(42, 3, np.array([0, 1, 1_281_166]), 32)

    assert drawn.top.tolist() == GOLDEN_TOP
    assert drawn.left.tolist() == GOLDEN_LEFT
    assert drawn.flip.tolist() == GOLDEN_FLIP
    assert [[x.hex() for x in row] for row in drawn.alpha.tolist()] == GOLDEN_ALPHA


GOLDEN_TOP = [30, 1, 14]
GOLDEN_LEFT = [15, 27, 2]
GOLDEN_FLIP = [True, False, False]
GOLDEN_ALPHA = [
    ["-0x1.ccc9a19d2e6bfp-4", "0x1.1be0dd4c04e5bp+0", "0x1.2f2f925dbee89p-1"],
    ["-0x1.d4a8ecd66cc57p-2", "0x1.0b8c3a61801c1p+1", "-0x1.b94b0204ddfdep+0"],
    ["-0x1.6e1d698ad11eap-3", "0x1.29502b96a9a52p+0", "0x1.d79ea8f1f053ep-3"],
]


@given(st.integers(0, 2**64 - 1), st.integers(0, 100), st.lists(st.integers(0, 10**7), min_size=1, max_size=9))
def test_a_record_s_draws_do_not_depend_on_its_batch(seed, epoch, records):
    together = draws(seed, epoch, np.array(records), 32)
    alone = [draws(seed, epoch, np.array([record]), 32) for record in records]

    for lane, values in zip(together, zip(*alone, strict=True), strict=True):
        assert np.array_equal(lane, np.concatenate(values))


def test_another_seed_epoch_or_record_draws_anew():
    a, b, c = (draws(seed, epoch, MANY, 32).alpha[:, 0] for seed, epoch in ((1, 0), (2, 0), (1, 1)))

    assert abs(np.corrcoef([a, b, c]) - np.eye(3)).max() < 0.015  # 6.7 standard errors of 200,000 pairs
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.015


def test_all_33_by_33_offsets_are_equally_likely():
    """Chi-square with 1,088 degrees of freedom; p = 1e-6 at about 1,320."""
    drawn = draws(7, 0, MANY, 32)
    counts = np.bincount(drawn.top * 33 + drawn.left, minlength=33 * 33)

    assert len(counts) == 33 * 33
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 1320


def test_half_of_the_images_are_flipped_and_that_says_nothing_of_their_crop():
    drawn = draws(7, 0, MANY, 32)

    assert abs(drawn.flip.mean() - 0.5) < 0.006
    assert abs(np.corrcoef([drawn.top, drawn.left, drawn.flip, *drawn.alpha.T]) - np.eye(6)).max() < 0.015


def test_alphas_are_standard_normal():
    """Kolmogorov-Smirnov distance against the normal distribution: 600,000 values, p = 1e-6 at 0.0035."""
    values = np.sort(draws(7, 0, MANY, 32).alpha.ravel())
    cdf = np.array([NormalDist().cdf(x) for x in values[::50]])

    assert abs(cdf - np.arange(len(values))[::50] / len(values)).max() < 0.0035


def test_the_normal_quantile_agrees_with_pythons_to_the_far_tail():
    """Ours is made of exact operations only; Python's uses the C library's log."""
    bits = np.concatenate([np.arange(0, 2**64, 2**52 + 12345, dtype=np.uint64), np.array([0, 2**12, 2**20, 2**30, 2**64 - 1], np.uint64)])
    expected = [NormalDist().inv_cdf((int(b) >> 12) * 2.0**-52 + 2.0**-53) for b in bits.tolist()]

    assert np.allclose(normal(bits), expected, rtol=2e-15, atol=1e-15)


@given(st.floats(1e-300, 1))
def test_the_logarithm_agrees_with_numpys(x):
    assert np.isclose(_log(np.array([x]))[0], np.log(x), rtol=1e-15, atol=1e-16)


def test_the_colour_shift_is_a_standard_deviation_along_each_principal_colour():
    """Spec section 2: alpha * sqrt(eigenvalue), in grey levels; here axes 2, 1, 0 with variances 100, 4 and 1."""
    vectors = np.eye(3)[::-1].copy()
    shift = colour_shift(np.array([[1.0, -2.0, 0.5]]), 0.1, np.array([100.0, 4.0, 1.0]), vectors)

    assert shift.dtype == np.float32
    assert np.allclose(shift, [[0.05, -0.4, 1.0]])
