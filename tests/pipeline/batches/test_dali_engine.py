"""The graph of the GPU: legal, the reference's bits on a CPU, and its pixels on a GPU."""

import shutil
from itertools import chain

import numpy as np
import pytest
import torch
from alexprep.pipeline import DataError, Loader, LoaderConfig, compute_stats, read_manifest
from alexprep.pipeline.batches import reference
from alexprep.pipeline.batches.dali_engine import DaliEngine, build, check_graph
from alexprep.pipeline.batches.steps import DamagedRecord

from ...support.loaders import CROP, KINDS, each, same
from ...support.shards import damage, stream


@each
def test_the_gpus_graph_gives_the_references_bits_when_it_runs_on_the_cpu(every_loader, layout):
    loader, stats = every_loader, every_loader.stats
    engine = DaliEngine(loader.config, loader.records.manifest, stats, loader._source)
    for step in range(2):
        views, _, records = engine.run()
        expected = reference.batch(loader.records, loader.config, stats, step)

        assert np.array_equal((views if layout == "CHW" else views.movedim(-1, -3)).numpy(), expected)
        assert len(records) == len(expected)


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
