"""What a step needs: damaged records and their substitutes, what is read ahead."""

import shutil
import subprocess
import sys
from itertools import chain

import pytest
import torch
from alexprep.pipeline import DataError, Loader, Records, read_manifest
from alexprep.pipeline.batches import sampler
from alexprep.pipeline.batches.steps import DamagedRecord

from ...support.loaders import CROP, same
from ...support.shards import damage, stream


@pytest.mark.process
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


@pytest.mark.process
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
