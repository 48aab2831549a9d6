"""Data that the tests make themselves, and places of real images that may be absent."""

import os

import pytest
from jaxtyping import install_import_hook

from .support.images import make_images
from .support.paths import ROOT, SHARED
from .support.shards import make_shards

# Shapes and dtypes of every array are checked while the tests run; an int may stand for a float. Not in config: it checks
# what users give it by itself.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
MODULES = [
    ".".join(("alexprep", *path.relative_to(ROOT).with_suffix("").parts)) for top in ("pipeline", "model") for path in (ROOT / top).rglob("*.py")
]
if os.environ.get("ALEXPREP_TEST_SHAPES") != "off":  # `make test-fast`: each process would spend 8 seconds on it first
    install_import_hook([name for name in MODULES if not name.endswith((".config", ".__init__"))], CHECKER)


def pytest_runtest_setup(item):
    """Skip what is marked `gpu`, or `gpu(count)`, where there are not so many."""
    for mark in item.iter_markers("gpu"):
        import torch

        count = mark.args[0] if mark.args else 1
        if torch.cuda.device_count() < count:
            pytest.skip(f"needs {count} GPU{'s' * (count > 1)}")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Two splits, two classes, 150 small images."""
    return make_images(tmp_path_factory.mktemp("images"), {"train/ant": 66, "train/bee": 64, "val/ant": 11, "val/bee": 9})


@pytest.fixture(scope="session")
def shards(images, tmp_path_factory):
    """Their shards, 64 pixels a side, by encoding."""
    root = tmp_path_factory.mktemp("shards")
    for encoding in ("jpeg", "raw"):
        make_shards(images, root / encoding, encoding=encoding, size=64)
    return root


@pytest.fixture(scope="session")
def real_images():
    """500 ImageNet photographs, where they are."""
    path = SHARED / "imagenet-sample"
    if not path.is_dir():
        pytest.skip("no imagenet-sample beside this checkout")
    return path
