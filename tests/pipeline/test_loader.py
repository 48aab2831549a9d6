"""Batches: the bits of the reference, whatever the machine's layout; clear words when something is damaged."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pytest
import torch
from alexprep.pipeline import DataError, Loader, LoaderConfig, Records, compute_stats, read_manifest
from alexprep.pipeline.batches import reference, sampler
from alexprep.pipeline.batches.dali_engine import DaliEngine, build, check_graph
from alexprep.pipeline.batches.steps import DamagedRecord
from alexprep.pipeline.batches.views import windows
from alexprep.pipeline.inspection.bottleneck import Setup, verdict
from alexprep.pipeline.storage.trace import Trace
from hypothesis import given, settings
from hypothesis import strategies as st

from ..support.commands import command
from ..support.shards import damage, stream

CROP = 48  # of the 64-pixel records

KINDS = {
    "random": {"split": "train", "batch_size": 10},
    "center": {"split": "val", "batch_size": 6},
    "ten": {"split": "val", "batch_size": 6, "views": "ten"},
}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def every_loader(shards, encoding, kind, mean, layout):
    stats = compute_stats(read_manifest(shards / encoding))
    return Loader(shards / encoding, crop=CROP, mean=mean, layout=layout, divide=1.1, seed=3, stats=stats, **KINDS[kind])


def each(test):
    """Run `test` with every kind of loader."""
    choices = {"encoding": ["jpeg", "raw"], "kind": list(KINDS), "mean": ["pixel", "center", "channel", "none"], "layout": ["CHW", "channels_last"]}
    for name, values in choices.items():
        test = pytest.mark.parametrize(name, values)(test)
    return test


@each
def test_batches_are_the_references_bit_for_bit(every_loader):
    loader, stats = every_loader, every_loader.stats
    for step, batch in enumerate(stream(loader, len(loader) + 1)):  # into the second epoch
        expected = reference.batch(loader.records, loader.config, stats, step)

        assert batch.images.dtype == torch.float32
        assert batch.images.shape == expected.shape
        assert np.array_equal(batch.images.numpy(), expected)
        assert batch.labels.tolist() == loader.records.labels(batch.records.numpy()).tolist()


@each
def test_the_gpus_graph_gives_the_references_bits_when_it_runs_on_the_cpu(every_loader, layout):
    loader, stats = every_loader, every_loader.stats
    engine = DaliEngine(loader.config, loader.records.manifest, stats, loader._source)
    for step in range(2):
        views, _, records = engine.run()
        expected = reference.batch(loader.records, loader.config, stats, step)

        assert np.array_equal((views if layout == "CHW" else views.movedim(-1, -3)).numpy(), expected)
        assert len(records) == len(expected)


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


def test_a_crop_of_the_whole_record_and_a_crop_of_odd_room_are_exact(shards):
    for crop in (64, 47, 1):
        loader = Loader(shards / "raw", crop=crop, batch_size=8)
        (batch,) = stream(loader, 1)
        assert np.array_equal(batch.images.numpy(), reference.batch(loader.records, loader.config, loader.stats, 0))
        ten = Loader(shards / "raw", split="val", views="ten", crop=crop, batch_size=8)
        (batch,) = stream(ten, 1)
        assert np.array_equal(batch.images.numpy(), reference.batch(ten.records, ten.config, ten.stats, 0))


def test_without_mirroring_every_view_is_the_same_crop_unmirrored(shards):
    options = {"crop": CROP, "mean": "none", "colour": 0.0, "batch_size": 64, "seed": 3}
    mirrored, plain = (Loader(shards / "raw", mirror=mirror, **options) for mirror in (True, False))
    with_, without = next(iter(mirrored)), next(iter(plain))
    same_way = (with_.images == without.images).flatten(1).all(1)
    other_way = (with_.images.flip(3) == without.images).flatten(1).all(1)

    assert torch.equal(with_.records, without.records)
    assert bool((same_way | other_way).all())
    assert 16 <= int(other_way.sum()) <= 48
    assert np.array_equal(without.images.numpy(), reference.batch(plain.records, plain.config, compute_stats(read_manifest(shards / "raw")), 0))
    with pytest.raises(ValueError, match="mirror must be true or false"):
        Loader(shards / "raw", mirror=2, **options)


def test_ten_views_are_corners_and_centre_then_those_of_the_mirrored_image():
    """torchvision's order; 256 - 224 = 32 pixels of room."""
    assert [tuple(w) for w in windows("ten", 32)] == [
        *((0, 0, 0), (0, 32, 0), (32, 0, 0), (32, 32, 0), (16, 16, 0)),
        *((0, 32, 1), (0, 0, 1), (32, 32, 1), (32, 0, 1), (16, 16, 1)),
    ]


def test_colour_off_means_no_shift_and_no_division(shards):
    plain = Loader(shards / "raw", crop=CROP, batch_size=8, mean="none", colour=0, divide=1.1)
    (batch,) = stream(plain, 1)

    assert torch.equal(batch.images, batch.images.round())
    assert batch.images.max() > 200


def test_a_damaged_record_is_named_with_shard_row_and_key(shards, tmp_path):
    """Twice: a body cut short, and a header destroyed, which crashes DALI 2.4.0 unless the graph is guarded."""
    for offset in (40, 0):
        copy = shutil.copytree(shards / "jpeg", tmp_path / str(offset))
        damage(copy, 77, offset)
        code = f"from alexprep.pipeline import Loader\nfor b in Loader({str(copy)!r}, crop=48, batch_size=64): pass"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

        assert run.returncode == 1, run.stderr
        assert f"record 77 (train-00001-of-00002.arrow row 12, from {Records(read_manifest(copy), 'train').key(77)})" in run.stderr
        assert "alexprep repair" in run.stderr


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_damaged_record_can_be_skipped_for_the_next_good_one(shards, tmp_path, world_size):
    """Named in a warning, the same at any world size and after resuming; all others keep their bits."""
    copy = shutil.copytree(shards / "jpeg", tmp_path / "shards")
    for record in (77, 78, 129):
        damage(copy, record, 200)
    options = {"crop": CROP, "batch_size": 10, "seed": 2, "world_size": world_size}
    expected, found, substitutes = [], [], {}
    for rank in range(world_size):
        with pytest.warns(DamagedRecord, match="is given instead of a damaged one: record (77|78|129) "):
            loader = Loader(copy, rank=rank, on_bad="skip", **options)
            found.append(stream(loader, 26))
        substitutes |= loader.substitutes
        expected.append(stream(Loader(shards / "jpeg", rank=rank, **options), 26))
        with pytest.warns(DamagedRecord):
            resumed = Loader(copy, rank=rank, on_bad="skip", **options)
            resumed.load_state_dict({"step": 13})
            assert all(same(a, b) for a, b in zip(found[-1][13:], stream(resumed, 13), strict=True))

    assert substitutes == {77: 79, 78: 79, 129: 0}
    changed = 0
    for whole, mended in zip(chain(*expected), chain(*found), strict=True):
        wanted = [substitutes.get(record, record) for record in whole.records.tolist()]
        assert mended.records.tolist() == wanted
        for i, record in enumerate(whole.records.tolist()):
            changed += record in substitutes
            assert record in substitutes or torch.equal(whole.images[i], mended.images[i])
    assert changed


def test_a_substitute_is_drawn_as_itself(shards, tmp_path):
    """With its own label and its own draws: the sample that it is elsewhere in this epoch."""
    copy = shutil.copytree(shards / "jpeg", tmp_path / "shards")
    damage(copy, 77, 200)
    with pytest.warns(DamagedRecord):
        batches = stream(Loader(copy, crop=CROP, batch_size=130, on_bad="skip"), 1)
    records = batches[0].records
    first, second = torch.nonzero(records == 78).ravel().tolist()

    assert torch.equal(batches[0].images[first], batches[0].images[second])
    assert batches[0].labels[first] == batches[0].labels[second]


@pytest.mark.parametrize("shuffle", ["full", "none"])
def test_after_an_error_the_next_batch_is_that_of_the_same_step(shards, tmp_path, shuffle):
    """A shard that is gone for a while."""
    copy = shutil.copytree(shards / "jpeg", tmp_path / "shards")
    options = {"crop": CROP, "batch_size": 10, "shuffle": shuffle}
    expected = stream(Loader(shards / "jpeg", **options), 13)
    loader = Loader(copy, **options)
    last = max(copy.glob("train-*.arrow"))
    last.rename(tmp_path / "away")
    with pytest.raises(DataError, match="cannot be read"):
        stream(loader, 13)
    step = loader.state_dict()["step"]
    (tmp_path / "away").rename(last)

    assert all(same(a, b) for a, b in zip(stream(loader, 13 - step), expected[step:], strict=True))


@pytest.mark.parametrize("state", [{}, {"step": 1.5}, {"step": "3"}, {"step": True}, {"step": -1}, {"step": 1 << 70}], ids=str)
def test_a_state_that_is_none_is_refused(shards, state):
    with pytest.raises(ValueError, match="the state of a loader is"):
        Loader(shards / "raw", crop=CROP).load_state_dict(state)


def test_threads_that_iterate_at_once_share_the_batches(shards):
    loader = Loader(shards / "raw", crop=CROP, batch_size=10)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda _: [batch.records.tolist() for batch in loader], range(4)))

    assert sorted(chain(*parts)) == sorted(batch.records.tolist() for batch in Loader(shards / "raw", crop=CROP, batch_size=10))


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


@pytest.mark.filterwarnings("ignore::alexprep.pipeline.batches.steps.DamagedRecord")
def test_too_many_damaged_records_in_a_row_are_no_accident(shards, tmp_path, monkeypatch):
    copy = shutil.copytree(shards / "jpeg", tmp_path / "shards")
    for record in range(40, 45):
        damage(copy, record, 200)
    for module in ("batches.steps", "shards.reader"):
        monkeypatch.setattr(f"alexprep.pipeline.{module}.SEARCH", 4)

    with pytest.raises(DataError, match="damaged records, 4 in a row; alexprep repair"):
        stream(Loader(copy, crop=CROP, batch_size=130, on_bad="skip"), 1)


def test_block_shuffle_has_each_block_read_ahead_once_in_one_run(shards, monkeypatch):
    """Nine blocks of 16 records, pools of 2: what is due within a pool's records is asked for before it is used."""
    monkeypatch.setattr("alexprep.pipeline.batches.sampler.BLOCK", 16)
    monkeypatch.setattr("alexprep.pipeline.batches.sampler.POOL", 2)
    monkeypatch.setattr("alexprep.pipeline.batches.steps.BLOCK", 16)
    monkeypatch.setattr("alexprep.pipeline.batches.steps.POOL", 2)
    sampler.block_shuffled.cache_clear()
    asked = []
    monkeypatch.setattr(Records, "read_ahead", lambda _self, first, count: asked.append((first // 16, first % 16, count)))
    used = [batch.records // 16 for batch in Loader(shards / "raw", crop=CROP, batch_size=8, shuffle="block", prefetch=1)]
    sampler.block_shuffled.cache_clear()
    blocks = [block for block, _, _ in asked[:9]]

    assert {(first, count) for _, first, count in asked} == {(0, 16)}
    assert sorted(blocks) == list(range(9))
    assert set(blocks[:2]) >= set(used[0].tolist())  # the first pool first
    assert len(asked) > 9  # the next epoch's first


def test_records_are_read_ahead_in_one_run_a_shard(shards, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _file, start, length, advice: asked.append((start, length, advice)))
    records = Records(read_manifest(shards / "raw"), "train")
    first, second = records.shards
    records.read_ahead(first.rows - 10, 30)
    records.read_ahead(len(records) - 1, 30)

    assert asked == [
        (first.bytes * (first.rows - 10) // first.rows, first.bytes - first.bytes * (first.rows - 10) // first.rows, os.POSIX_FADV_WILLNEED),
        (0, second.bytes * 20 // second.rows, os.POSIX_FADV_WILLNEED),
        (second.bytes * (second.rows - 1) // second.rows, second.bytes - second.bytes * (second.rows - 1) // second.rows, os.POSIX_FADV_WILLNEED),
    ]


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size .* at least 1, got 0"),
        ({"split": "val", "batch_size": 2, "world_size": 3}, "at least 3, got 2"),
        ({"crop": 65}, "crop 65 does not fit into records of 64 pixels"),
        ({"batch_size": 10, "world_size": 3}, "divisible by world_size: 10 by 3"),
        ({"rank": 2, "world_size": 2}, r"rank must be 0..1 \(world_size is 2\), got 2"),
        ({"mean": "median"}, "mean must be one of pixel, center, channel, none"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 5.5}, "seed must be a whole number, got 5.5"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"batch_size": "100"}, "batch_size must be a whole number, got '100'"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"crop": 48.0}, "crop must be a whole number"),
        ({"threads": "2"}, "threads must be a whole number"),
        ({"divide": 1e-300}, "divide must be"),
        ({"colour": "0.1"}, "colour must be a number"),
        ({"colour": 1e300}, "colour must be"),
        ({"shuffle": True}, "shuffle must be one of full, block, none; got True"),
        ({"split": "val", "on_bad": "skip"}, "on_bad=skip would count a record twice in an evaluation"),
        ({"dtype": "float64"}, "dtype must be one of float32, bfloat16, float16"),
        ({"colour": float("nan")}, "colour must be"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(shards, options, message):
    with pytest.raises(ValueError, match=message):
        Loader(shards / "raw", **({"batch_size": 10, "crop": CROP} | options))


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


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["CHW", "channels_last"])
@pytest.mark.parametrize("mean", ["pixel", "center", "channel", "none"])
@pytest.mark.parametrize("view", ["random", "center", "ten"])
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_the_gpu_graph_is_legal(shards, encoding, view, mean, layout, dtype):
    """Built, serialised and checked against DALI's registry; needs no GPU."""
    manifest = read_manifest(shards / encoding)
    config = LoaderConfig(split="val", device="gpu", views=view, mean=mean, layout=layout, dtype=dtype, crop=CROP, threads=1)
    used = check_graph(build(config, manifest, compute_stats(manifest), 8, lambda _: None))
    on_gpu = {name for name, device in used if device in ("gpu", "mixed")}
    on_cpu = {name for name, device in used if device == "cpu"}

    assert on_gpu >= {"CropMirrorNormalize", *(["decoders__Image"] if encoding == "jpeg" else [])}
    assert not on_cpu & {"CropMirrorNormalize", "decoders__Image", "Stack"}


def test_the_check_of_graphs_finds_an_operator_that_has_no_gpu_kernel():
    from nvidia import dali

    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        files, _ = dali.fn.readers.file(files=["x"], device="gpu")
        pipeline.set_outputs(files)

    with pytest.raises(TypeError, match="readers__File"):
        check_graph(pipeline)


def test_a_trace_shows_what_each_thread_did(shards, tmp_path):
    trace = Trace()
    loader = Loader(shards / "jpeg", crop=CROP, batch_size=20, threads=2, trace=trace)
    untraced = Loader(shards / "jpeg", crop=CROP, batch_size=20, threads=2)
    for batch, expected in zip(loader, untraced, strict=True):
        assert same(batch, expected)
    trace.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]

    assert sum(event["args"]["records"] for event in spans if event["name"] == "views") >= 6 * 20
    assert [event["args"]["step"] for event in spans if event["name"] == "wait for the batch"] == list(range(6))
    assert sum(event["name"] == "consumer" for event in spans) == 6
    assert len({event["tid"] for event in spans}) in (2, 3)  # the consumer and two threads, of which one may have been too late for work
    assert {event["args"]["name"].partition("_")[0] for event in events if event["ph"] == "M"} == {"alexprep", "MainThread"}


def test_a_loader_says_how_many_batches_are_ready(shards):
    loader = Loader(shards / "raw", crop=CROP, batch_size=20, prefetch=2)
    assert loader.ready == 0
    batches = iter(loader)
    next(batches)
    deadline = time.monotonic() + 20
    while loader.ready < 2 and time.monotonic() < deadline:
        time.sleep(0.001)

    assert loader.ready == 2


JPEG, RAW = {"decoding": 3000, "augmenting": 6000, "storage": 9000}, {"augmenting": 6000, "storage": 900}


@pytest.mark.parametrize(
    ("stages", "loader", "threads", "sentence"),
    [
        (JPEG, 1900, 2, "The processor binds: 1,900 images/s are 95% of the 2,000 that the processor allows; most of it is decoding: raw records"),
        (JPEG, 1900, 2, "(alexprep shard --encoding raw) would allow 6,000 at the very most, for 5.1 times the space."),
        (JPEG, 1900, 1, "allows; --threads 2 would use all CPUs."),
        (RAW, 800, 2, "Storage binds: 800 images/s are 89% of the 900 that storage allows; --shuffle block"),
        (RAW, 4500, 2, "The processor binds: 4,500 images/s are 75% of the 6,000 that the processor allows; --dtype"),
        (RAW, 4500, 2, " That is with the shards in memory: read from the disk, storage would bind at 900."),
        (JPEG | {"host to device": 1500}, 1400, 2, "Host to device binds: 1,400 images/s are 93% of the 1,500"),
        (JPEG | {"the consumer": 500}, 1900, 2, "The consumer binds: it takes 500 images/s, and the loader makes 3.8 times as many"),
    ],
)
def test_the_verdict_names_what_binds_and_what_would_help(stages, loader, threads, sentence):
    assert sentence in verdict(stages, loader, Setup(threads, 2, raw_size=5.13))


def test_the_verdict_advises_nothing_that_is_done_already_and_says_when_figures_explain_nothing():
    half = Setup(2, 2, "bfloat16")
    assert verdict(RAW, 4500, half).split("; ")[1].startswith("only more CPUs help")
    assert "JPEG" not in verdict(JPEG | {"storage": 1000}, 900, half)
    assert verdict(JPEG, 2900, half).startswith("The machine was busier while the stages were measured than later: 2,900 images/s are 145%")
    assert verdict(JPEG, 600, half).startswith("None of the stages binds: 600 images/s are 30%")


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_bench_measures_every_stage_and_ends_in_a_sentence(shards, encoding, tmp_path):
    options = ["--crop", CROP, "--batch-size", 20, "--seconds", 0.2, "--device", "cpu"]
    told = command("alexprep", "bench", shards / encoding, *options, "--trace", tmp_path / "t.json")
    printed = json.loads(command("alexprep", "bench", shards / encoding, *options, "--consumer", 10, "--json").stdout)
    names = ["storage", *(["decoding"] if encoding == "jpeg" else []), "augmenting"]

    assert told.returncode == 0, told.stderr
    assert [line.split()[0] for line in told.stdout.splitlines()[: len(names) + 1]] == [*names, "loader"]
    assert " images/s are " in told.stdout.splitlines()[-1]
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [stage["name"] for stage in printed["stages"]] == [*names, "the consumer", "loader"]
    assert all(stage["rate"] > 0 for stage in printed["stages"])
    assert printed["verdict"].startswith("The consumer binds: it takes 10 images/s")


@pytest.mark.gpu
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mean", ["pixel", "center", "channel"])
def test_the_gpu_gives_the_references_pixels(shards, encoding, kind, mean):
    """Raw records to float rounding; JPEG records within what nvJPEG's own inverse DCT may differ."""
    loader = Loader(shards / encoding, crop=CROP, mean=mean, divide=1.1, device="gpu", **KINDS[kind])
    (batch,) = stream(loader, 1)
    difference = np.abs(batch.images.cpu().numpy() - reference.batch(loader.records, loader.config, loader.stats, 0))

    assert difference.max() < (1e-4 if encoding == "raw" else 8)
    assert difference.mean() < (1e-5 if encoding == "raw" else 0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize(("layout", "dtype"), [("CHW", "float32"), ("channels_last", "float16"), ("channels_last", "bfloat16")])
def test_batches_of_the_gpu_stay_as_they_are_and_come_again_from_any_step(shards, encoding, layout, dtype):
    options = {"crop": CROP, "batch_size": 10, "device": "gpu", "layout": layout, "dtype": dtype}
    kept, copies = [], []
    for batch in chain(Loader(shards / encoding, **options), Loader(shards / encoding, seed=1, **options)):
        kept.append(batch)
        copies.append(batch.images.clone())
    later = Loader(shards / encoding, **options)
    later.load_state_dict({"step": 5})

    assert all(torch.equal(batch.images, copy) for batch, copy in zip(kept, copies, strict=True))
    assert all(same(*pair) for pair in zip(stream(later, 8), kept[5:13], strict=True))
    assert kept[0].images.dtype == getattr(torch, dtype)
    assert kept[0].images.is_contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)


@pytest.mark.gpu
@pytest.mark.parametrize("offset", [200, 40, 0])
def test_damaged_records_are_named_or_passed_over_on_the_gpu_as_on_the_cpu(shards, tmp_path, offset):
    copy = shutil.copytree(shards / "jpeg", tmp_path / "shards")
    for record in (77, 78, 129):
        damage(copy, record, offset)
    options = {"crop": CROP, "batch_size": 10, "seed": 2}
    with pytest.raises(DataError, match=r"record (77|78|129) \("):
        stream(Loader(copy, device="gpu", **options), 13)
    with pytest.warns(DamagedRecord):
        ours = stream(Loader(copy, on_bad="skip", device="gpu", **options), 20)
    with pytest.warns(DamagedRecord):
        theirs = stream(Loader(copy, on_bad="skip", **options), 20)

    for one, other in zip(ours, theirs, strict=True):
        assert one.records.cpu().equal(other.records)
        assert (one.images.cpu() - other.images).abs().mean() < 0.5
