"""Which image goes into which shard."""

import pytest

from ...support.commands import command

pytestmark = pytest.mark.process


def test_a_million_images_are_planned_in_little_memory():
    """The columns are made up, the plan and its digest are real."""
    code = """
import resource, time
import numpy as np, pyarrow as pa
from alexprep.pipeline.config import ShardConfig
from alexprep.pipeline.preparation.plan import SplitShuffle, make_plan
from alexprep.pipeline.sources import Listing, Source
n = 1_400_000
keys = pa.array([f"train/n{i // 1300:08}/n{i // 1300:08}_{i}.JPEG" for i in range(n)], pa.large_binary())
columns = [keys, pa.array(np.full(n, -1, np.int32)), pa.array(np.full(n, -1)), pa.array(np.arange(n))]
places = pa.record_batch(columns, ["name", "file", "offset", "size"])
listing = Listing("train", keys, np.arange(n) // 1300, places)
source = Source("made up", "", [f"n{i:08}" for i in range(1077)], [listing], {}, [])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan, shuffle = make_plan(source, ShardConfig()), SplitShuffle(listing, ShardConfig())
assert len(shuffle.images(7).rows()) == shuffle.count(7)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, len(plan.shards("train")))
"""
    run = command("python", "-c", code)
    kilobytes, count = map(int, run.stdout.split())

    assert count == 342
    assert kilobytes * 1024 / 1_400_000 < 200  # bytes an image
