"""Batches: the bits of the reference, whatever the machine's layout; an epoch, a state, a rank and a thread change none."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
import torch
from alexprep.pipeline import DataError, Loader
from hypothesis import given, settings
from hypothesis import strategies as st

from ..support.loaders import CROP, same
from ..support.shards import stream


def test_channels_last_is_a_layout_not_a_shape(shards):
    (batch,) = stream(Loader(shards / "raw", crop=CROP, layout="channels_last", batch_size=8), 1)

    assert batch.images.shape == (8, 3, CROP, CROP)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_is_every_record_at_most_once_and_the_next_one_is_another_order(shards):
    loader = Loader(shards / "raw", crop=CROP, batch_size=20)
    first, second = ([r for batch in loader for r in batch.records.tolist()] for _ in range(2))

    assert len(loader) == 6
    assert len(set(first)) == len(first) == 120
    assert first != second
    assert loader.state_dict() == {"step": 12}


def test_another_seed_gives_other_batches(shards):
    a, b = (stream(Loader(shards / "raw", crop=CROP, batch_size=20, seed=seed), 1)[0] for seed in (0, 1))

    assert not torch.equal(a.records, b.records)


@pytest.mark.process
@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([1, 2, 3, 4, 6]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 25),
    st.sampled_from(["jpeg", "raw"]),
)
def test_ranks_threads_prefetch_and_resuming_change_no_bit(shards, seed, world_size, threads, prefetch, start, encoding):
    """The global batch of step `start` in one process, against the ranks' parts after resuming there."""
    options = {"crop": CROP, "batch_size": 12, "seed": seed}
    whole = Loader(shards / encoding, threads=1, prefetch=2, **options)
    whole.load_state_dict({"step": start})
    (expected,) = stream(whole, 1)
    parts = []
    for rank in range(world_size):
        loader = Loader(shards / encoding, rank=rank, world_size=world_size, threads=threads, prefetch=prefetch, **options)
        loader.load_state_dict({"step": start})
        parts += stream(loader, 1)

    assert same(expected, [torch.cat(column) for column in zip(*parts, strict=True)])


@pytest.mark.parametrize("stop", [1, 5, 12, 13, 20])
def test_a_loader_continues_from_its_state_in_another_process_s_place(shards, stop):
    options = {"crop": CROP, "batch_size": 10, "seed": 1}
    undisturbed = stream(Loader(shards / "raw", **options), 26)
    first = Loader(shards / "raw", **options)
    stream(first, stop)
    second = Loader(shards / "raw", **options)
    second.load_state_dict(first.state_dict())

    for expected, found in zip(undisturbed[stop:], stream(second, 26 - stop), strict=True):
        assert same(expected, found)


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
@pytest.mark.parametrize("views", ["center", "ten"])
def test_evaluation_gives_every_record_exactly_once_at_any_world_size(shards, world_size, views):
    seen = []
    for rank in range(world_size):
        for batch in Loader(shards / "raw", split="val", views=views, crop=CROP, batch_size=6, rank=rank, world_size=world_size):
            seen += batch.records.tolist()

    assert sorted(seen) == list(range(20))


def test_batches_that_are_kept_do_not_change(shards):
    loader = Loader(shards / "raw", crop=CROP, batch_size=10)
    kept = stream(loader, 10)
    copies = [batch.images.clone() for batch in kept]
    stream(loader, 10)

    for batch, copy in zip(kept, copies, strict=True):
        assert torch.equal(batch.images, copy)


MEMORY = """
import sys
import gc
from alexprep.pipeline import Loader
gc.disable()
def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
for epoch in range(int(sys.argv[2])):
    options = {"crop": 48, "threads": 2}
    for loader in (Loader(sys.argv[1], batch_size=10, seed=epoch, **options), Loader(sys.argv[1], split="val", views="ten", batch_size=4, **options)):
        for _ in range(3):
            for batch in loader:
                pass
    print(own(), flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_memory_does_not_grow_from_epoch_to_epoch_and_loader_to_loader(shards, encoding):
    """After a few to warm up, forty more loaders of three epochs each take less than 6 MB more."""
    done = subprocess.run([sys.executable, "-c", MEMORY, shards / encoding, "30"], capture_output=True, text=True, check=True)
    kib = [int(line) for line in done.stdout.split()]

    assert kib[-1] - kib[9] < 6 << 10, kib


def test_two_loaders_live_side_by_side(shards):
    a, b = (Loader(shards / "raw", crop=CROP, batch_size=10, seed=seed) for seed in (0, 0))
    for x, y in zip(a, b, strict=True):
        assert same(x, y)


def test_colour_off_means_no_shift_and_no_division(shards):
    plain = Loader(shards / "raw", crop=CROP, batch_size=8, mean="none", colour=0, divide=1.1)
    (batch,) = stream(plain, 1)

    assert torch.equal(batch.images, batch.images.round())
    assert batch.images.max() > 200


@pytest.mark.parametrize("state", [{}, {"step": 1.5}, {"step": "3"}, {"step": True}, {"step": -1}, {"step": 1 << 70}], ids=str)
def test_a_state_that_is_none_is_refused(shards, state):
    with pytest.raises(ValueError, match="the state of a loader is"):
        Loader(shards / "raw", crop=CROP).load_state_dict(state)


def test_threads_that_iterate_at_once_share_the_batches(shards):
    loader = Loader(shards / "raw", crop=CROP, batch_size=10)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda _: [batch.records.tolist() for batch in loader], range(4)))

    assert sorted(chain(*parts)) == sorted(batch.records.tolist() for batch in Loader(shards / "raw", crop=CROP, batch_size=10))


@pytest.mark.process
def test_a_forked_process_goes_on_where_its_parent_was(shards):
    """The threads stay with the parent: a child that waited for them hung."""
    code = f"""
import os, sys
from alexprep.pipeline import Loader
loader = Loader({str(shards / "raw")!r}, crop={CROP}, batch_size=10)
batches = iter(loader)
next(batches)
child = os.fork()
print(*next(batches).records.tolist(), flush=True)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    ours, theirs = done.stdout.splitlines()
    assert ours == theirs


@pytest.mark.process
@pytest.mark.parametrize("shuffle", ["full", "block"])
def test_a_run_stopped_with_four_ranks_goes_on_with_two(shards, shuffle):
    """The same global batches as without a stop, at one rank."""
    options = {"crop": CROP, "batch_size": 12, "seed": 4, "shuffle": shuffle}
    undisturbed = stream(Loader(shards / "raw", **options), 15)
    four = [Loader(shards / "raw", rank=rank, world_size=4, **options) for rank in range(4)]
    before = list(zip(*(stream(loader, 7) for loader in four), strict=True))
    two = [Loader(shards / "raw", rank=rank, world_size=2, **options) for rank in range(2)]
    for loader in two:
        loader.load_state_dict(four[0].state_dict())
    after = list(zip(*(stream(loader, 8) for loader in two), strict=True))

    for expected, parts in zip(undisturbed, before + after, strict=True):
        assert same(expected, [torch.cat(column) for column in zip(*parts, strict=True)])


def test_an_unknown_option_is_refused(shards):
    with pytest.raises(TypeError, match="batchsize"):
        Loader(shards / "raw", batchsize=10)


def test_too_few_records_for_a_batch_are_refused(shards):
    with pytest.raises(DataError, match="130 records are fewer than one batch of 131"):
        Loader(shards / "raw", crop=CROP, batch_size=131)


def test_a_gpu_where_there_is_none_is_one_clear_sentence(shards):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(DataError, match=r'^device "gpu" needs an NVIDIA GPU with its driver, and there is none'):
        Loader(shards / "raw", crop=CROP, device="gpu")


def test_a_loader_says_how_many_batches_are_ready(shards):
    loader = Loader(shards / "raw", crop=CROP, batch_size=20, prefetch=2)
    assert loader.ready == 0
    batches = iter(loader)
    next(batches)
    deadline = time.monotonic() + 20
    while loader.ready < 2 and time.monotonic() < deadline:
        time.sleep(0.001)

    assert loader.ready == 2
