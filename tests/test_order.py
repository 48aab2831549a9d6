"""Which records, in which step."""

import numpy as np
import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.order import Plan, argsort, permutation
from hypothesis import given
from hypothesis import strategies as st

seeds = st.integers(0, 2**64 - 1)
worlds = st.sampled_from([1, 2, 3, 4, 6, 12])


def global_batch(records, batch_size, seed, world, step, **options):
    return np.concatenate([Plan(records, batch_size, seed, rank, world, **options)(step)[1] for rank in range(world)])


def test_the_stream_is_fixed_for_ever():
    """Runs are resumed by it: if this fails, every checkpoint and every published seed has lost its meaning."""
    assert permutation(0, 0, 12).tolist() == GOLDEN_0_0
    assert permutation(2**64 - 1, 7, 12).tolist() == GOLDEN_MAX_7


GOLDEN_0_0 = [9, 3, 4, 2, 11, 6, 0, 1, 10, 7, 8, 5]
GOLDEN_MAX_7 = [1, 11, 8, 5, 4, 2, 9, 10, 6, 3, 0, 7]


@given(st.lists(st.one_of(st.integers(0, 200), seeds), unique=True, max_size=200))
def test_sorting_is_numpys_also_of_values_that_differ_in_few_bits(values):
    numbers = np.array(values, np.uint64)

    assert argsort(numbers.copy()).tolist() == np.argsort(numbers).tolist()


@given(seeds, st.integers(0, 1000), st.integers(0, 300))
def test_an_epoch_takes_every_record_once(seed, epoch, n):
    assert sorted(permutation(seed, epoch, n).tolist()) == list(range(n))


@given(seeds)
def test_another_seed_or_epoch_gives_another_order(seed):
    order = permutation(seed, 0, 100).tolist()

    assert order != permutation(seed, 1, 100).tolist()
    assert order != permutation((seed + 1) % 2**64, 0, 100).tolist()


def test_every_place_is_equally_likely():
    """Chi-square over 4,000 epochs of 8 records: where record 3 lands (7 degrees of freedom, p = 1e-6 at 40.5)."""
    counts = np.bincount([int(np.flatnonzero(permutation(5, epoch, 8) == 3)[0]) for epoch in range(4000)], minlength=8)

    assert ((counts - 500) ** 2 / 500).sum() < 40.5


@given(seeds, st.integers(0, 40), worlds)
def test_the_global_batch_does_not_depend_on_the_world_size(seed, step, world):
    assert global_batch(100, 12, seed, 1, step).tolist() == global_batch(100, 12, seed, world, step).tolist()


@given(st.integers(1, 60), st.integers(12, 20), worlds)
def test_evaluation_takes_every_record_exactly_once_at_any_world_size(records, batch_size, world):
    seen = []
    for rank in range(world):
        plan = Plan(records, batch_size, 0, rank, world, shuffle=False, drop_last=False)
        parts = [plan(step)[1] for step in range(plan.steps)]
        assert all(len(part) for part in parts)
        seen += [record for part in parts for record in part.tolist()]

    assert sorted(seen) == list(range(records))


def test_a_data_set_smaller_than_a_batch_is_refused():
    with pytest.raises(DataError, match="7 records are fewer than one batch of 8"):
        Plan(7, 8)
