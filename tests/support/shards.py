"""Data sets that the tests make themselves, and damage done to them."""

import json

from .images import make_images


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
    write_statistics(root / "shards")
    return root / "shards"


def write_statistics(directory):
    """What `alexprep stats --pca` writes."""
    from alexprep.pipeline import compute_stats, read_manifest
    from alexprep.pipeline.shards.stats import write_stats

    manifest = read_manifest(directory)
    write_stats(compute_stats(manifest), manifest, pca=True)


def problems(directory, *, deep=False):
    """What `alexprep verify` finds."""
    from alexprep.pipeline import read_manifest
    from alexprep.pipeline.preparation.verify import Verification

    check = Verification(read_manifest(directory), deep=deep, workers=1)
    list(check.run())
    return check.problems


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


def stream(loader, steps):
    """The first `steps` batches from where the loader is, across epochs."""
    batches = []
    while len(batches) < steps:
        for batch in loader:
            batches.append(batch)
            if len(batches) == steps:
                break
    return batches
