"""Data that the tests make themselves, and places of real images that may be absent."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import install_import_hook
from PIL import Image

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"

# Shapes and dtypes of every array are checked while the tests run; an int may stand for a float. Not in config: it checks
# what users give it by itself.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
MODULES = [
    ".".join(("alexprep", *path.relative_to(ROOT).with_suffix("").parts)) for top in ("pipeline", "model") for path in (ROOT / top).rglob("*.py")
]
install_import_hook([name for name in MODULES if not name.endswith((".config", ".__init__"))], CHECKER)


def pytest_runtest_setup(item):
    """Skip what is marked `gpu`, or `gpu(count)`, where there are not so many."""
    for mark in item.iter_markers("gpu"):
        import torch

        count = mark.args[0] if mark.args else 1
        if torch.cuda.device_count() < count:
            pytest.skip(f"needs {count} GPU{'s' * (count > 1)}")


def jpeg(image, **options):
    """The bytes of `image` (uint8 array) as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


def picture(seed, height=70, width=90):
    """A smooth, colourful image: JPEG keeps it close."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def make_images(root, counts):
    """Write a folder of small JPEGs: counts is {"train/cat": 5, ...}."""
    for below, count in counts.items():
        (root / below).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / below / f"{number:03}.JPEG").write_bytes(jpeg(picture(hash_of(below) + number)))
    return root


def hash_of(text):
    return sum(text.encode()) * 1000


def damage(folder, record, offset):
    """Overwrite a training record from its `offset`-th byte on."""
    from alexprep.pipeline import Records, read_manifest

    image = Records(read_manifest(folder), "train").image(record).tobytes()
    path = next(path for path in sorted(folder.glob("train-*.arrow")) if image in path.read_bytes())
    content = path.read_bytes()
    path.write_bytes(content.replace(image, image[:offset] + bytes(len(image) - offset)))


def edit(path, change):
    """Change a file of JSON."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def unbound(directory):
    """Make a data set one of the releases that did not bind sums to their shards."""
    edit(directory / "manifest.json", lambda m: [shard.pop("sums_sha256") for split in m["splits"].values() for shard in split["shards"]])
    for path in directory.glob("*.arrow.json"):
        edit(path, lambda s: s.pop("sums_sha256"))
    return directory


def make_shards(source, out, *, workers=1, max_bad=0.01, **config):
    """Run the whole shard job in this process's interest; return its manifest."""
    from alexprep.pipeline import ShardConfig, ShardJob
    from alexprep.pipeline.sources import find_source

    job = ShardJob(find_source(source), out, ShardConfig(**config), workers, max_bad)
    for _ in job.run():
        pass
    return job.manifest


def training_shards(root, a_class):
    """Shards of 72 pixels and their statistics: two classes, `a_class` training images each and some to validate on."""
    make_images(root / "images", {"train/ant": a_class, "train/bee": a_class, "val/ant": 9, "val/bee": 8})
    make_shards(root / "images", root / "shards", size=72)
    assert command("alexprep", "stats", root / "shards", "--pca").returncode == 0
    return root / "shards"


def stream(loader, steps):
    """The first `steps` batches from where the loader is, across epochs."""
    batches = []
    while len(batches) < steps:
        for batch in loader:
            batches.append(batch)
            if len(batches) == steps:
                break
    return batches


def command(*arguments, cwd=None, env=None, timeout=280):
    """Run one of our commands as its own process; text in, text out."""
    program, *rest = map(str, arguments)
    return subprocess.run(
        [Path(sys.executable).parent / program, *rest], capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=timeout
    )


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


def children_of(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def workers_of(pid):
    """The workers of a command: forked from a server that is its child."""
    return [worker for child in children_of(pid) for worker in children_of(child)]
