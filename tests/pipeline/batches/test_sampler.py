"""Which records, in which step."""

import numpy as np
import pytest
from alexprep.pipeline.batches import sampler as orders
from alexprep.pipeline.batches.sampler import BLOCK, POOL, Sampler, block_shuffled, shuffled
from alexprep.pipeline.counter_rng import argsort, permutation
from alexprep.pipeline.errors import DataError
from hypothesis import given
from hypothesis import strategies as st

seeds = st.integers(0, 2**64 - 1)
places = st.integers(-30, 140)
worlds = st.sampled_from([1, 2, 3, 4, 6, 12])


def block_permutation(seed, epoch, n):
    return block_shuffled(seed, epoch, n)[:]


def global_batch(records, batch_size, seed, world, step, **options):
    return np.concatenate([Sampler(records, batch_size, seed, rank, world, **options)(step)[1] for rank in range(world)])


def test_the_stream_is_fixed_for_ever():
    """Runs are resumed by it: if this fails, every checkpoint and every published seed has lost its meaning."""
    assert permutation(0, 0, 12).tolist() == GOLDEN_0_0
    assert permutation(2**64 - 1, 7, 12).tolist() == GOLDEN_MAX_7
    assert block_permutation(0, 0, 12).tolist() == GOLDEN_BLOCK
    assert block_permutation(0, 3, 20_000)[[0, 1, 8191, 8192, 19_999]].tolist() == GOLDEN_BLOCKS


GOLDEN_0_0 = [9, 3, 4, 2, 11, 6, 0, 1, 10, 7, 8, 5]
GOLDEN_BLOCK = [10, 9, 6, 3, 4, 5, 1, 7, 2, 8, 0, 11]
GOLDEN_BLOCKS = [15696, 16967, 16347, 3385, 14694]
GOLDEN_MAX_7 = [1, 11, 8, 5, 4, 2, 9, 10, 6, 3, 0, 7]


@given(st.lists(st.one_of(st.integers(0, 200), seeds), unique=True, max_size=200))
def test_sorting_is_numpys_also_of_values_that_differ_in_few_bits(values):
    numbers = np.array(values, np.uint64)

    assert argsort(numbers.copy()).tolist() == np.argsort(numbers).tolist()


@pytest.mark.process
@given(seeds, st.integers(0, 1000), st.integers(0, 120), st.lists(st.tuples(places, places), min_size=1, max_size=5))
def test_an_order_made_in_parts_is_the_permutation(seed, epoch, n, asked):
    """Whatever is asked for, in whatever order: parts of 16 to 32 records here, hashed 20 at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "PART", 16)
        patch.setattr(orders, "CHUNK", 20)
        order, whole = shuffled.__wrapped__(seed, epoch, n), permutation(seed, epoch, n)
        parts = [order[start:stop].tolist() for start, stop in asked]

    assert parts == [whole[start:stop].tolist() for start, stop in asked]


@pytest.mark.process
def test_of_a_large_order_only_the_part_that_is_asked_for_is_made(monkeypatch):
    sorted_at_once = []
    monkeypatch.setattr(orders, "argsort", lambda values: sorted_at_once.append(len(values)) or argsort(values))
    order = shuffled.__wrapped__(0, 0, 4_000_000)

    assert order[128:256].tolist() == permutation(0, 0, 4_000_000)[128:256].tolist()
    assert order[256:384].tolist() != order[128:256].tolist()
    assert [round(count / 1e5) for count in sorted_at_once] == [10]


both = pytest.mark.parametrize("order", [permutation, block_permutation])


@pytest.mark.process
@both
@given(seed=seeds, epoch=st.integers(0, 1000), n=st.one_of(st.integers(0, 300), st.integers(BLOCK * POOL - 3, 3 * BLOCK * POOL)))
def test_an_epoch_takes_every_record_once(order, seed, epoch, n):
    assert np.array_equal(np.sort(order(seed, epoch, n)), np.arange(n))


@pytest.mark.process
@both
@given(seed=seeds)
def test_another_seed_or_epoch_gives_another_order(order, seed):
    first = order(seed, 0, 100).tolist()

    assert first != order(seed, 1, 100).tolist()
    assert first != order((seed + 1) % 2**64, 0, 100).tolist()


def test_block_shuffle_reads_every_block_in_one_pool():
    """What a slow disk sees: POOL runs of BLOCK records at a time, and none of them twice."""
    blocks = block_permutation(1, 0, 10 * POOL * BLOCK) // BLOCK
    pools = [set(pool.tolist()) for pool in blocks.reshape(-1, POOL * BLOCK)]

    assert [len(pool) for pool in pools] == [POOL] * 10
    assert sorted(block for pool in pools for block in pool) == list(range(10 * POOL))


def test_block_shuffle_mixes_well():
    """A batch of 128 comes from nearly all POOL blocks evenly, from places all over the data set, and meets others in the next epoch."""
    n = 40 * POOL * BLOCK
    now, later = (block_permutation(4, epoch, n).reshape(-1, 128) for epoch in (0, 1))
    shares = np.stack([np.sort(np.bincount(np.unique(batch // BLOCK, return_inverse=True)[1], minlength=POOL)) for batch in now])
    chi_square = ((shares - 128 / POOL) ** 2 / (128 / POOL)).sum(1)
    batch_of = np.empty(n, np.int64)
    batch_of[later.ravel()] = np.repeat(np.arange(len(later)), 128)
    again = np.array([len(batch) - len(np.unique(batch_of[batch])) for batch in now])

    assert abs(chi_square.mean() - (POOL - 1)) < 1  # fair: less than their standard deviation, 5.5, by far
    assert np.abs(np.array([batch.mean() for batch in now]) / n - 0.5).mean() < 0.1  # POOL places at random: 0.06
    assert again.mean() < 10  # of 128 share a later batch with one before them; full shuffling: 0.025, same order: 127


@both
def test_two_epochs_put_neighbours_apart(order):
    """How far apart the next record of one epoch is in the other: a third of the epoch on average, as at random."""
    n = 20 * POOL * BLOCK
    place = np.argsort(order(2, 1, n))
    distance = np.abs(np.diff(place[order(2, 0, n)])).mean()

    assert abs(distance / n - 1 / 3) < 0.05


@pytest.mark.process
def test_every_place_is_equally_likely():
    """Chi-square over 4,000 epochs of 8 records: where record 3 lands (7 degrees of freedom, p = 1e-6 at 40.5)."""
    counts = np.bincount([int(np.flatnonzero(permutation(5, epoch, 8) == 3)[0]) for epoch in range(4000)], minlength=8)

    assert ((counts - 500) ** 2 / 500).sum() < 40.5


@pytest.mark.process
@given(seeds, st.integers(0, 40), worlds, st.sampled_from(["full", "block", "none"]))
def test_the_global_batch_does_not_depend_on_the_world_size(seed, step, world, shuffle):
    assert global_batch(100, 12, seed, 1, step, shuffle=shuffle).tolist() == global_batch(100, 12, seed, world, step, shuffle=shuffle).tolist()


@given(st.integers(1, 60), st.integers(12, 20), worlds)
def test_evaluation_takes_every_record_exactly_once_at_any_world_size(records, batch_size, world):
    seen = []
    for rank in range(world):
        plan = Sampler(records, batch_size, 0, rank, world, shuffle="none", drop_last=False)
        parts = [plan(step)[1] for step in range(plan.steps)]
        assert all(len(part) for part in parts)
        seen += [record for part in parts for record in part.tolist()]

    assert sorted(seen) == list(range(records))


def test_a_data_set_smaller_than_a_batch_is_refused():
    with pytest.raises(DataError, match="7 records are fewer than one batch of 8"):
        Sampler(7, 8)
