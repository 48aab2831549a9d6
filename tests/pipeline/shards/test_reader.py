"""Reading what is there, and refusing what is not ours."""

import gc
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from alexprep.pipeline import DataError, Records, compute_stats, load_stats, read_manifest
from alexprep.pipeline.arrow import byte_strings, byte_views, numbers, plain, strings
from alexprep.pipeline.imaging.codec import decode_record
from alexprep.pipeline.imaging.kernels import COMPILED, stored_strings
from alexprep.pipeline.shards.mapped import Strings
from hypothesis import given, settings
from hypothesis import strategies as st

from ...support.commands import command
from ...support.images import make_images
from ...support.paths import ROOT
from ...support.shards import edit, make_shards, unbound

GOLDEN = ROOT / "tests/golden"


@pytest.fixture
def copy(shards, tmp_path):
    """A data set of one's own."""
    return shutil.copytree(shards / "jpeg", tmp_path / "copy")


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


def test_an_unfinished_folder_is_told_from_an_empty_one(copy, tmp_path):
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match="unfinished job: run the same alexprep shard command again"):
        read_manifest(copy)
    with pytest.raises(DataError, match="run alexprep shard first"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format_version=2), "format version 2; this release reads version 1"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file="../../etc/passwd"), "cannot be a name in a folder"),
        (lambda m: m["splits"]["train"]["shards"][0].update(rows=-1), "cannot have -1 rows"),
        (lambda m: m.pop("classes"), "not a manifest of ours"),
        (lambda m: m["parameters"].update(size=10**9), "not a manifest of ours"),
        (lambda m: m["parameters"].update(sise=1), "not a manifest of ours"),
        (lambda m: m.update(splits=[]), "not a manifest of ours"),
        (lambda m: m.update(splits={}), "it has no splits"),
        (lambda m: m["parameters"].update(size=64.0), "size must be a whole number"),
        (lambda m: m["splits"]["train"]["shards"][0].update(rows=0), "rows, not the 130 that it says"),
        (lambda m: m["splits"]["val"].update(m["splits"]["train"]), "twice"),
        (lambda m: m["splits"]["train"]["shards"][0].update(file=""), "cannot be a name in a folder"),
        (lambda m: m["splits"]["train"]["shards"][0].update(sha256="../evil"), "cannot have the SHA-256"),
        (lambda m: m["splits"]["train"]["shards"][0].update(rows=True), "a shard has a file, rows, bytes and sha256"),
        (lambda m: m["classes"][0].__setitem__(0, "\ud800"), "not a manifest of ours"),
    ],
    ids=[
        "version",
        "path",
        "negative",
        "no-classes",
        "size",
        "unknown",
        "splits",
        "no-splits",
        "float",
        "rows",
        "twice",
        "no-name",
        "sha256",
        "boolean",
        "half-a-character",
    ],
)
def test_a_strange_manifest_is_refused(copy, change, message):
    edit(copy / "manifest.json", change)

    with pytest.raises(DataError, match=message):
        read_manifest(copy)


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


def test_a_sidecar_that_disagrees_with_its_pixel_sums_is_refused(copy):
    edit(copy / "train-00000-of-00002.arrow.json", lambda s: s["moments"]["total"].__setitem__(0, 1))

    with pytest.raises(DataError, match="the sums cannot be used .they are not those that were counted"):
        compute_stats(read_manifest(copy))


def test_pickled_pixel_sums_are_not_opened(copy):
    np.save(copy / "train-00000-of-00002.arrow.pixelsum.npy", np.array([object()]), allow_pickle=True)

    with pytest.raises(DataError, match="the per-pixel sums cannot be used"):
        compute_stats(read_manifest(copy))


def test_stats_prints_a_table_and_writes_what_the_sidecars_say(copy):
    run = command("alexprep", "stats", copy, "--pca", "--verify")
    value = json.loads((copy / "stats.json").read_text())
    stats = compute_stats(read_manifest(copy))

    assert run.returncode == 0, run.stderr
    assert "eigenvalue" in run.stdout
    assert "after JPEG encoding" in run.stdout
    assert "verified: every sum recomputed from the pixels is the same integer" in run.stdout
    assert value["images"] == 130
    assert value["pixels"] == 130 * 64 * 64
    assert value["eigenvectors"] == stats.colours.eigenvectors.tolist()
    assert np.array_equal(np.load(copy / "mean_image.npy"), stats.mean_image)
    loaded = load_stats(read_manifest(copy))
    assert np.array_equal(loaded.mean_image, stats.mean_image)
    assert np.array_equal(loaded.colours.covariance, stats.colours.covariance)


def test_without_pca_there_are_no_eigenvectors_in_the_file(copy):
    value = json.loads(command("alexprep", "stats", copy, "--json").stdout)

    assert set(value) == {"split", "images", "pixels", "mean", "covariance", "plan", "counted", "sha256"}


def test_verify_notices_one_changed_sum_of_an_early_release(copy):
    """A sidecar that is consistent in itself, but not with the pixels."""
    edit(unbound(copy) / "train-00000-of-00002.arrow.json", lambda s: s["moments"]["outer"][0].__setitem__(0, s["moments"]["outer"][0][0] + 1))
    run = command("alexprep", "stats", copy, "--verify")

    assert run.returncode == 1
    assert "not those of the sidecars" in run.stderr
    assert not (copy / "stats.json").exists()


def test_verify_notices_one_changed_byte_and_a_label_out_of_range_is_never_trained_on(copy):
    path = copy / "train-00000-of-00002.arrow"
    content = bytearray(path.read_bytes())
    with pa.memory_map(str(path)) as file:
        labels = pa.ipc.open_file(file).get_batch(0).column("label").to_numpy().tobytes()
    start = content.index(labels)
    content[start : start + 8] = (10**9).to_bytes(8, "little")
    path.write_bytes(content)
    run = command("alexprep", "stats", copy, "--verify")

    assert run.returncode == 1
    assert "train-00000-of-00002.arrow is not as it was written (its SHA-256 differs)" in run.stderr
    with pytest.raises(DataError, match=r"labels outside 0\.\.1"):
        Records(read_manifest(copy), "train").labels(np.array([0]))


@pytest.mark.parametrize("change", [{"eigenvalues": [-1, 1, 1]}, {"mean": [float("nan"), 1, 1]}, {"images": float("inf")}], ids=str)
def test_numbers_that_no_images_have_are_refused(copy, change):
    command("alexprep", "stats", copy, "--pca")
    edit(copy / "stats.json", lambda s: s.update(change))

    with pytest.raises(DataError, match="run alexprep stats --pca again"):
        load_stats(read_manifest(copy))


def test_a_sidecar_of_another_job_is_refused(copy):
    edit(copy / "train-00000-of-00002.arrow.json", lambda s: s.update(plan="x"))

    with pytest.raises(DataError, match="is of another job"):
        compute_stats(read_manifest(copy))


def test_statistics_of_other_shards_are_not_used(copy):
    command("alexprep", "stats", copy, "--pca")
    edit(copy / "stats.json", lambda s: s.update(plan="0", mean=[0, 0, 0]))

    assert load_stats(read_manifest(copy)).colours.mean.min() > 1


def test_damaged_statistics_are_named(copy):
    command("alexprep", "stats", copy, "--pca")
    (copy / "mean_image.npy").write_bytes(b"\x93NUMPY")

    with pytest.raises(DataError, match="run alexprep stats --pca again"):
        load_stats(read_manifest(copy))


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


def test_columns_are_numbers_and_back_and_a_missing_number_is_refused():
    """A shard of somebody else's may have nulls where a label should be; what lies in their place is no label."""
    array = numbers(np.arange(9, dtype=np.int32))

    assert plain(array[2:5]).tolist() == [2, 3, 4]
    assert strings([b"a", b"", b"bc"], pa.binary()).to_pylist() == [b"a", b"", b"bc"]
    with pytest.raises(ValueError, match="1 values are missing"):
        plain(pa.array([1, None, 3]))


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
