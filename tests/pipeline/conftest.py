"""What the tests of several rooms share."""

import shutil
from importlib import import_module

import pytest
from alexprep.pipeline import Loader, compute_stats, read_manifest
from alexprep.pipeline.imaging import kernels

from ..support.loaders import CROP, KINDS


@pytest.fixture
def copy(shards, tmp_path):
    """A data set of one's own."""
    return shutil.copytree(shards / "jpeg", tmp_path / "copy")


@pytest.fixture
def every_loader(shards, encoding, kind, mean, layout):
    stats = compute_stats(read_manifest(shards / encoding))
    return Loader(shards / encoding, crop=CROP, mean=mean, layout=layout, divide=1.1, seed=3, stats=stats, **KINDS[kind])


@pytest.fixture(params=["_kernels", "_kernels_avx2"])
def compiled(request, monkeypatch):
    """Both builds of the same loops, one after the other."""
    if not kernels.COMPILED:
        pytest.skip("installed without a compiler")
    if request.param == "_kernels_avx2" and not import_module("alexprep.pipeline.imaging._kernels").runs_avx2():
        pytest.skip("a processor without AVX2")
    module = import_module(f"alexprep.pipeline.imaging.{request.param}")
    monkeypatch.setattr(kernels, "_kernels", module)
    return module
