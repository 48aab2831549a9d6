"""Which crop, flip and colour shift."""

from statistics import NormalDist

import numpy as np
import pytest
from alexprep.pipeline.batches import augment
from alexprep.pipeline.batches.augment import _log, colour_shift, draws, normal
from alexprep.pipeline.counter_rng import permutation
from alexprep.pipeline.inspection import randomness
from alexprep.pipeline.inspection.randomness import RECORDS, check_draws, check_order
from hypothesis import given
from hypothesis import strategies as st

MANY = np.arange(RECORDS)


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


@pytest.mark.process
@given(st.integers(0, 2**64 - 1), st.integers(0, 100), st.lists(st.integers(0, 10**7), min_size=1, max_size=9))
def test_a_record_s_draws_do_not_depend_on_its_batch(seed, epoch, records):
    together = draws(seed, epoch, np.array(records), 32)
    alone = [draws(seed, epoch, np.array([record]), 32) for record in records]

    for lane, values in zip(together, zip(*alone, strict=True), strict=True):
        assert np.array_equal(lane, np.concatenate(values))


@pytest.mark.process
@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
@pytest.mark.parametrize("epoch", [0, 89])
def test_order_and_draws_look_random(seed, epoch):
    """33 x 33 offsets, flips, alphas; lanes, epochs, seeds and neighbours independent: 200,000 records."""
    wrong = [found for found in (*check_draws(seed, epoch, RECORDS, 32), *check_order(seed, epoch, RECORDS)) if not found.good]

    assert not wrong


def uneven_offsets(drawn, _epoch):
    return drawn._replace(left=np.where(drawn.left == 32, 31, drawn.left))


def slightly_more_flips(drawn, _epoch):
    return drawn._replace(flip=drawn.flip | (np.arange(len(drawn.flip)) % 70 == 0))


def wider_alphas(drawn, _epoch):
    return drawn._replace(alpha=drawn.alpha * 1.02)


def alphas_of_one_lane(drawn, _epoch):
    return drawn._replace(alpha=drawn.alpha[:, [0, 1, 1]])


def crops_that_hint_at_flips(drawn, _epoch):
    return drawn._replace(left=np.where(drawn.flip & (drawn.left < 2), 32 - drawn.left, drawn.left))


def the_first_epoch_again(drawn, epoch):
    return drawn if epoch == 0 else augment.draws(3, 0, MANY, 32)


def neighbours_alike(drawn, _epoch):
    return drawn._replace(alpha=np.repeat(drawn.alpha[::50], 50, axis=0)[: len(drawn.alpha)])


@pytest.mark.process
@pytest.mark.parametrize(
    "spoil",
    [uneven_offsets, slightly_more_flips, wider_alphas, alphas_of_one_lane, crops_that_hint_at_flips, the_first_epoch_again, neighbours_alike],
)
def test_the_tests_of_the_draws_find_what_is_wrong(monkeypatch, spoil):
    monkeypatch.setattr(randomness, "draws", lambda seed, epoch, numbers, room: spoil(draws(seed, epoch, numbers, room), epoch))

    assert [found for found in check_draws(3, 0, RECORDS, 32) if not found.good]


def stored_order(n):
    return np.arange(n)


def one_order_for_ever(n):
    return permutation(0, 0, n)


def runs_of_forty_neighbours(n):
    return (40 * permutation(0, 0, n // 40)[:, None] + np.arange(40)).ravel()


@pytest.mark.parametrize("spoil", [stored_order, one_order_for_ever, runs_of_forty_neighbours])
def test_the_tests_of_the_order_find_what_is_wrong(monkeypatch, spoil):
    monkeypatch.setattr(randomness, "permutation", lambda _seed, _epoch, n: spoil(n))

    assert [found for found in check_order(3, 0, RECORDS) if not found.good]


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
