"""The CPU's engine: compiled views have the bits of their numpy twin; a batch's memory is its own as long as anything holds it."""

import gc

import numpy as np
import pytest
import torch
from alexprep.pipeline import Loader, compute_stats, read_manifest
from alexprep.pipeline.batches import reference
from alexprep.pipeline.batches.cpu_engine import LINE, BufferPool, CpuEngine, laid_out, plain_views
from alexprep.pipeline.imaging import kernels
from alexprep.pipeline.imaging.kernels import NUMBERS, Recipe, encode_jpeg, render
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...support.images import noise, picture, saved
from ...support.loaders import CROP, KINDS
from ...support.shards import stream

TYPES = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.float16}
any_time = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbers(*shape, seed):
    return np.random.default_rng(seed).uniform(-300, 300, shape).astype(np.float32)


@pytest.mark.process
@any_time
@given(draw=st.data(), raw=st.booleans(), kind=st.sampled_from(NUMBERS), planes=st.booleans(), mean=st.sampled_from(["before", "after", "none"]))
def test_compiled_views_are_those_of_numpy(compiled, draw, raw, kind, planes, mean):
    size = draw.draw(st.integers(1, 40))
    crop, views, records = draw.draw(st.integers(1, size)), draw.draw(st.integers(1, 3)), draw.draw(st.integers(1, 3))
    seed, scale = draw.draw(st.integers(0, 99)), draw.draw(st.sampled_from([1.0, 1 / 1.1, 1 / 255, 3e-5]))
    room = st.integers(0, size - crop)
    placed = np.array([[[draw.draw(room), draw.draw(room), draw.draw(st.integers(0, 1))] for _ in range(views)] for _ in range(records)], np.int32)
    before = laid_out(numbers(size, size, 3, seed=seed), planes) if mean == "before" else None
    after = laid_out(numbers(crop, crop, 3, seed=seed), planes) if mean == "after" else None
    recipe = Recipe(size, crop, views, planes, NUMBERS.index(kind), scale, before, after)
    pixels = [noise(size, size, 3, seed=seed + i) for i in range(records)]
    offsets = numbers(records, 3, seed=seed)
    images = pixels
    if not raw:
        encoded = [encode_jpeg(image, 95) for image in pixels]
        images, pixels = [np.frombuffer(one.data, np.uint8) for one in encoded], [one.pixels for one in encoded]
    shape = (records, views, *((3, crop, crop) if planes else (crop, crop, 3)))
    memory = BufferPool(1)
    out, expected = memory.lease(shape, TYPES[kind]), np.zeros(shape, TYPES[kind])
    out[...] = 0
    for i in range(records):
        plain_views(pixels[i], placed[i], offsets[i], recipe, expected[i])

    assert render(images, raw, placed, offsets, out, recipe, 0, records) == []
    assert np.array_equal(out.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("crop", [1, 16])  # a number at a time, and eight
def test_halves_are_rounded_as_torch_rounds_them(compiled, crop):
    """Halfway cases, subnormals, the largest number and beyond."""
    values = np.concatenate([np.float32(2.0) ** np.arange(-26, 18), [65504, 65519.9, 65520, 1e6, 2.5, 2049, 2051, 1 / 3]]).astype(np.float32)
    values = np.concatenate([values, values * np.float32(1 + 2**-11), values * np.float32(1 + 3 * 2**-11)])
    for kind in ("float16", "bfloat16"):
        out = np.zeros((1, 1, 3, crop, crop), TYPES[kind])
        for value in values:
            recipe = Recipe(crop, crop, 1, True, NUMBERS.index(kind), 1.0, None, None)
            offsets = np.array([[-value, value, 0]], np.float32)
            render([np.zeros((crop, crop, 3), np.uint8)], True, np.zeros((1, 1, 3), np.int32), offsets, out, recipe, 0, 1)
            exact = torch.tensor([value, -value, 0]).to(getattr(torch, kind)).view(torch.uint16).numpy().reshape(3, 1, 1)
            assert np.all(out[0, 0].view(np.uint16) & 0x7FFF == exact & 0x7FFF), value


@pytest.mark.parametrize(
    "change",
    [
        {"windows": np.zeros((2, 1, 3), np.int32)},
        {"windows": np.full((1, 1, 3), 5, np.int32)},
        {"windows": np.full((1, 1, 3), -1, np.int32)},
        {"offsets": np.zeros((1, 2), np.float32)},
        {"out": np.zeros((1, 1, 3, 4, 3), np.float32)},
        {"before": np.zeros((3, 8, 7), np.float32)},
        {"after": np.zeros((3, 4, 3), np.float32)},
        {"facts": (8, 9, 1, True, 0, 1.0)},
        {"facts": (8, 4, 1, True, 3, 1.0)},
        {"facts": (8, 4, 0, True, 0, 1.0)},
        {"first": 1},
        {"count": -1},
        {"count": 2**40},
        {"images": [noise(8, 7, 3)]},
    ],
    ids=str,
)
def test_buffers_that_do_not_fit_are_refused(compiled, change):
    given_ = {
        "images": [noise(8, 8, 3)],
        "raw": True,
        "windows": np.zeros((1, 1, 3), np.int32),
        "offsets": np.zeros((1, 3), np.float32),
        "before": None,
        "after": None,
        "out": np.zeros((1, 1, 3, 4, 4), np.float32),
        "facts": (8, 4, 1, True, 0, 1.0),
        "first": 0,
        "count": 1,
    }
    assert compiled.render(*given_.values()) == []
    with pytest.raises(ValueError, match="do not fit|bytes instead of"):
        compiled.render(*(given_ | change).values())


def test_a_batch_begins_at_a_cache_line(shards):
    """So that it is written past the caches."""
    assert all(batch.images.data_ptr() % LINE == 0 for batch in Loader(shards / "raw", crop=CROP, batch_size=20))


def test_a_record_that_is_no_usual_jpeg_is_left_to_the_twin(compiled):
    progressive = np.frombuffer(saved(picture(1, 16, 16), progressive=True), np.uint8)
    usual = np.frombuffer(saved(picture(1, 16, 16)), np.uint8)
    other_size = np.frombuffer(saved(picture(1, 16, 17)), np.uint8)
    images, count = [progressive, usual, other_size, usual[:-9]], 4
    out = np.zeros((count, 1, 3, 8, 8), np.float32)
    recipe = Recipe(16, 8, 1, True, 0, 1.0, None, None)

    assert render(images, False, np.zeros((count, 1, 3), np.int32), np.zeros((count, 3), np.float32), out, recipe, 0, count) == [0, 2, 3]


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["CHW", "channels_last"])
def test_without_the_extension_the_batches_are_the_same(shards, monkeypatch, encoding, kind, layout):
    options = {"crop": CROP, "layout": layout, "mean": "center", "divide": 1.1, **KINDS[kind]}
    expected = stream(Loader(shards / encoding, **options), 2)
    monkeypatch.setattr(kernels, "COMPILED", False)
    monkeypatch.setattr(kernels, "_kernels", None)
    found = stream(Loader(shards / encoding, **options), 2)

    assert all(torch.equal(a.images, b.images) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("layout", ["CHW", "channels_last"])
@pytest.mark.parametrize("kind", KINDS)
def test_halves_are_the_float32_batches_rounded(shards, dtype, layout, kind):
    stats = compute_stats(read_manifest(shards / "jpeg"))
    loader = Loader(shards / "jpeg", crop=CROP, dtype=dtype, layout=layout, stats=stats, **KINDS[kind])
    (batch,) = stream(loader, 1)
    exact = torch.from_numpy(reference.batch(loader.records, loader.config, stats, 0))

    assert batch.images.dtype == getattr(torch, dtype)
    assert torch.equal(batch.images, exact.to(batch.images.dtype))
    if layout == "channels_last" and kind != "ten":
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.process
def test_memory_is_used_again_when_a_batch_is_gone_and_not_before(shards):
    loader = Loader(shards / "raw", crop=CROP, batch_size=10, prefetch=1)
    views = [batch.images[3:5, :, 1:] for batch in stream(loader, 8)]  # only parts are held
    copies = [view.clone() for view in views]
    stream(loader, 8)
    assert all(torch.equal(view, copy) for view, copy in zip(views, copies, strict=True))

    del views
    gc.collect()
    seen = {batch.images.data_ptr() for _ in range(3) for batch in loader}
    assert len(seen) <= 4 + 8  # of 36 batches: what is worked on, and what the views above have left


def test_an_abandoned_loader_leaves_no_thread(shards):
    import threading

    before = set(threading.enumerate())  # those of other tests' loaders may end at any moment
    loader = Loader(shards / "raw", crop=CROP, batch_size=10)
    stream(loader, 2)
    assert set(threading.enumerate()) - before
    loader.load_state_dict({"step": 7})  # the engine that worked ahead is stopped

    assert not set(threading.enumerate()) - before


@pytest.mark.process
def test_the_engine_needs_no_dali(shards):
    import subprocess
    import sys

    code = f"import sys; from alexprep.pipeline import Loader; next(iter(Loader({str(shards / 'jpeg')!r}, crop=48, batch_size=8)))\n"
    code += "assert not any(name.startswith('nvidia') for name in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_damage_ahead_is_raised_when_its_turn_comes(shards):
    """The engine works ahead of its consumer; an error must not."""
    from alexprep.pipeline import DataError, LoaderConfig

    feeds = Loader(shards / "raw", crop=CROP, batch_size=10)

    def source(step):
        if step == 2:
            raise DataError("the third step's shard is damaged")
        return feeds._source(step)

    config = LoaderConfig(crop=CROP, batch_size=10, threads=1, prefetch=3)
    engine = CpuEngine(config, feeds.records.manifest, feeds.stats, source)
    engine.run()
    engine.run()
    with pytest.raises(DataError, match="third step"):
        engine.run()
    engine.close()
