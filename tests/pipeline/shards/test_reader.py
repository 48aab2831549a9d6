"""Reading what is there, and refusing what is not ours."""

import gc
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline import DataError, Records, compute_stats, read_manifest
from alexprep.pipeline.arrow import byte_strings, byte_views
from alexprep.pipeline.imaging.codec import decode_record
from alexprep.pipeline.imaging.kernels import COMPILED, stored_strings
from alexprep.pipeline.shards.mapped import Strings
from hypothesis import given, settings
from hypothesis import strategies as st

from ...support.commands import command
from ...support.images import make_images
from ...support.paths import ROOT
from ...support.shards import edit, make_shards

GOLDEN = ROOT / "tests/golden"


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_data_set_written_by_version_1_is_still_read(encoding):
    """Written once by 0.1.0. If this fails the format has changed: raise FORMAT_VERSION and keep reading version 1."""
    manifest = read_manifest(GOLDEN / encoding)
    records = Records(manifest, "train")
    labels = records.labels(np.arange(3)).tolist()
    keys = [records.key(i) for i in range(3)]
    stats = compute_stats(manifest)

    assert keys == ["train/b/000.JPEG", "train/a/000.JPEG", "train/a/001.JPEG"]
    assert labels == [1, 0, 0]
    assert [round(x, 3) for x in stats.colours.mean.tolist()] == GOLDEN_MEAN[encoding]
    pixels = records.image(1) if encoding == "raw" else decode_record(records.image(1))
    assert pixels[4, 5].tolist() == GOLDEN_PIXEL[encoding]


GOLDEN_MEAN = {"jpeg": [114.27, 133.523, 139.853], "raw": [114.254, 133.497, 139.931]}


GOLDEN_PIXEL = {"jpeg": [161, 134, 43], "raw": [157, 135, 43]}


def test_records_are_views_into_the_map_and_cannot_be_written(shards):
    for encoding in ("jpeg", "raw"):
        image = Records(read_manifest(shards / encoding), "train").image(70)
        assert not image.flags.writeable
        assert not image.flags.owndata


def test_a_record_says_where_it_came_from(shards):
    records = Records(read_manifest(shards / "jpeg"), "train")

    assert records.where(65) == f"record 65 (train-00001-of-00002.arrow row 0, from {records.key(65)})"
    with pytest.raises(IndexError, match="record 130 is out of range: the number of records is 130"):
        records.image(130)


def test_a_missing_split_is_named(shards):
    with pytest.raises(DataError, match="no split 'test'; it has train, val"):
        Records(read_manifest(shards / "jpeg"), "test")


def test_a_lost_or_cut_shard_is_named_before_anything_is_read(copy):
    manifest = read_manifest(copy)
    path = copy / "train-00001-of-00002.arrow"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-00001-of-00002.arrow has \d+ bytes instead of \d+"):
        Records(manifest, "train")
    path.unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00002.arrow is missing"):
        Records(manifest, "train")


def test_a_shard_of_another_data_set_is_refused(copy):
    edit(copy / "manifest.json", lambda m: m.update(plan="0" * 64))

    with pytest.raises(DataError, match="belongs to another data set"):
        Records(read_manifest(copy), "train").image(0)


def test_shard_bytes_that_are_no_arrow_file_are_named(copy):
    path = copy / "train-00000-of-00002.arrow"
    path.write_bytes(bytes(path.stat().st_size))

    with pytest.raises(DataError, match=r"train-00000-of-00002.arrow cannot be read as a shard"):
        Records(read_manifest(copy), "train").image(0)


def mapped(path):
    """KiB of the file's maps that are in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0] and ":" not in line.split()[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_memory_of_the_maps_is_given_back_and_what_was_in_it_stays(shards, tmp_path):
    own = shutil.copytree(shards / "raw", tmp_path / "own")  # other tests of this process may still hold maps of the shared one
    records = Records(read_manifest(own), "train")
    paths = [own / shard.file for shard in records.shards]
    images = [records.image(number) for number in range(len(records))]
    before = [image.sum() for image in images]
    assert all(mapped(path) > 500 for path in paths)
    records.unmap()

    assert all(mapped(path) == 0 for path in paths)
    assert [image.sum() for image in images] == before


@pytest.mark.process
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["jpeg", "raw"]), st.lists(st.integers(0, 129), max_size=40))
def test_the_strings_of_records_are_their_bytes_compiled_and_plain(shards, encoding, wanted):
    """As Arrow sees them, with every prefix and buffer that it can check; also when nothing else is left of the records."""
    records = Records(read_manifest(shards / encoding), "train")
    images, labels = records.several(np.array(wanted, np.int64))
    located = records.located(np.array(wanted, np.int64))
    ours, its_labels = located.strings(), located.labels()
    expected = [image.tobytes() for image in images]
    del records, located, images
    gc.collect()
    assert ours.to_pylist() == expected
    twin = byte_strings([np.frombuffer(value, np.uint8) for value in expected])
    for array in (ours, twin):
        array.validate(full=True)
        assert array.type == pa.binary_view()
        assert array.to_pylist() == expected
        assert [value.tobytes() for value in byte_views(array)] == expected
    assert its_labels.tolist() == labels.tolist()


@given(st.lists(st.binary(max_size=20)))
def test_short_strings_stand_where_arrow_has_them(values):
    """Of up to twelve bytes in the view itself: a record that damage made so short is read as any other."""
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    block = (np.frombuffer(b"".join(values) + b"-", np.uint8), offsets)
    capsules = stored_strings([block] * len(values), np.arange(len(values)))
    for array in ([] if capsules is None else [pa.array(Strings(capsules))]) + [byte_strings([np.frombuffer(value, np.uint8) for value in values])]:
        array.validate(full=True)
        assert array.to_pylist() == values
        assert [value.tobytes() for value in byte_views(array)] == values
        assert [value.tobytes() for value in byte_views(array[1:])] == values[1:]


@pytest.mark.skipif(not COMPILED, reason="there is no extension")
@pytest.mark.parametrize(
    ("blocks", "rows", "error"),
    [
        ([(np.zeros(9, np.uint8), np.array([0, 9], np.int32))], [1], "row 1 is not within its block"),
        ([(np.zeros(9, np.uint8), np.array([0, 10], np.int32))], [0], "row 0 is not within its block"),
        ([(np.zeros(9, np.uint8), np.array([5, 3], np.int32))], [0], "row 0 is not within its block"),
        ([(np.zeros((2, 3), np.uint8), None)], [2], "row 2 is not within its block"),
        ([(np.zeros((2, 3), np.uint8), None)], [-1], "row -1 is not within its block"),
        ([], [0], "1 rows of 0 blocks"),
        ([3], [0], "a block is a tuple"),
        ([(3, None)], [0], "a bytes-like object is required"),
    ],
)
def test_strings_that_are_not_there_are_refused(blocks, rows, error):
    with pytest.raises((ValueError, TypeError), match=error):
        stored_strings(blocks, np.array(rows))


@pytest.mark.process
def test_there_may_be_more_shards_than_files_a_process_may_have_open(tmp_path):
    make_images(tmp_path / "src", {"train/ant": 20, "train/bee": 20})
    make_shards(tmp_path / "src", tmp_path / "out", size=32, records_per_shard=1)
    records = Records(read_manifest(tmp_path / "out"), "train")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path("/dev/null").open() as file:
        resource.setrlimit(resource.RLIMIT_NOFILE, (file.fileno() + 10, hard))
    try:
        sums = [int(records.pixels(number).sum()) for number in range(len(records))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert len(records.shards) == 40
    assert sums == [int(Records(records.manifest, "train").pixels(number).sum()) for number in range(40)]


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_a_changed_byte_outside_the_images_is_named_or_harmless_and_never_ends_the_process(shards, tmp_path, encoding):
    """Offsets and texts that Arrow would follow anywhere: 300 single bytes, in a process of its own; before they were checked, 1 in 100 ended it."""
    copy = shutil.copytree(shards / encoding, tmp_path / "shards")
    done = subprocess.run([sys.executable, "-c", CHANGES, copy], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    named, harmless = map(int, done.stdout.split()[-2:])
    assert named + harmless == 300
    assert named > 30


CHANGES = """
import random, sys
from pathlib import Path
import numpy as np
from alexprep.pipeline import DataError, Records, read_manifest
manifest = read_manifest(sys.argv[1])
records = Records(manifest, "train", manifest.splits["train"].shards[0].file)
path = Path(sys.argv[1], records.shards[0].file)
data, image = path.read_bytes(), np.zeros(records.shards[0].bytes, bool)
records.image(0)
start = records._maps[0].address
for number in range(len(records)):
    one = records.image(number)
    image[one.ctypes.data - start :][: one.nbytes] = True
others, draw, named = np.flatnonzero(~image).tolist(), random.Random(4), 0
for _ in range(300):
    at = draw.choice(others)
    path.write_bytes(data[:at] + bytes([data[at] ^ draw.randrange(1, 256)]) + data[at + 1 :])
    try:
        damaged = Records(manifest, "train", path.name)
        damaged.keys()
        for number in range(len(damaged)):
            damaged.image(number), damaged.key(number)
        damaged.labels(np.arange(len(damaged)))
    except DataError as error:
        assert path.name in str(error), error
        named += 1
print(named, 300 - named)
"""


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


@pytest.mark.process
def test_the_readers_in_the_docs_read(shards, tmp_path, monkeypatch):
    """The Python block of docs/producing.md, as it stands."""
    (tmp_path / "shards").symlink_to(shards / "jpeg")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"## Reading shards.*?```python\n(.*?)```", (ROOT / "docs/producing.md").read_text(), re.DOTALL)
    script = tmp_path / "read.py"
    script.write_text(code + "print(table.num_rows, len(frame), counts, len(images), images[0]['image'].size, images.features['label'].names)\n")
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    run = command("python", script, cwd=tmp_path, env=env)

    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[-2] == "65 130 [(0, 66), (1, 64)] 130 (64, 64) ['ant', 'bee']"
