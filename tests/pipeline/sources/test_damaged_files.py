"""A damaged part is refused by name, and breaks no parser; a damaged image is quarantined."""

import re
import struct

import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.sources import find_source
from hypothesis import given, settings
from hypothesis import strategies as st

from ...support import shapes
from ...support.images import jpeg, make_images, picture
from ...support.shards import make_shards
from ...support.sources import FILES, SHAPES, every_image, refusal, wds


@pytest.mark.process
@given(cut=st.floats(0.01, 0.999))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("shape", ["tars", "WebDataset", "parquet", "TFDS"])
def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path_factory, shape, cut):
    root = SHAPES[shape](shapes.imagenet(), tmp_path_factory.mktemp("cut") / "src")
    victim = min(path for path in root.rglob("*train*") if path.is_file())
    data = victim.read_bytes()
    whole = every_image(find_source(victim))
    victim.write_bytes(data[: int(len(data) * cut)])
    try:
        assert every_image(find_source(victim)) == whole  # only padding is missing
    except DataError as error:
        known = r"fetch it again|of several shapes|no images|is a file that is no tar|is no tf.train|has no label|has no image"
        assert re.search(known, str(error))


@pytest.mark.process
def test_a_decompression_bomb_is_quarantined_in_little_memory_and_time(tmp_path):
    """A PNG of 60,000 x 60,000 pixels and 400 bytes, and one of the same that lies about its size."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(2_000_000))) + chunk(b"IEND", b"")
    make_images(tmp_path / "src", {"a": 4})
    (tmp_path / "src/a/bomb.JPEG").write_bytes(bomb)
    (tmp_path / "src/a/jpeg.JPEG").write_bytes(wide_jpeg())
    manifest = make_shards(tmp_path / "src", tmp_path / "out", size=16, max_bad=0.5)

    assert (manifest.splits["train"].records, manifest.splits["train"].quarantined) == (4, 2)
    assert len(bomb) < 3000


def wide_jpeg():
    """A JPEG whose header claims 65,000 x 65,000 pixels."""
    data = bytearray(jpeg(picture(0)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


@pytest.mark.process
@given(data=st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("shape", ["tars", "WebDataset", "parquet", "TFDS"])
def test_flipped_bytes_never_break_a_parser(tmp_path_factory, shape, data):
    """A file with a few bytes changed is listed and read, or refused with a message; nothing else."""
    root = tmp_path_factory.getbasetemp() / f"flip-{shape}"
    if not root.exists():
        SHAPES[shape](shapes.imagenet(), root)
    whole = min(path for path in root.rglob("*train*") if path.is_file()).read_bytes()
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    victim = tmp_path_factory.getbasetemp() / f"x-train-{shape.lower()}"
    victim.write_bytes(damaged)
    try:
        source = find_source(victim)
        for listing in source.listings():
            for _, _, place in listing.rows()[:3]:
                source.read(listing.split, place)
    except (DataError, OSError):
        return
    finally:
        from alexprep.pipeline.sources import reading
        from alexprep.pipeline.sources.formats import parquet

        for cache in (parquet._opened, parquet._group, reading._opened):
            cache.cache_clear()  # the next example is another file of the same name


@pytest.mark.parametrize("name", ["train-1.tar", "train-1.parquet", "train-1.tfrecord", "train-00001-of-00002"])
@pytest.mark.parametrize(
    "content", [b" ", bytes(10240), b"<html>not found</html>", b"\x00\x01damaged" * 100], ids=["a blank", "zeros", "html", "garbage"]
)
def test_a_file_that_claims_to_be_a_part_and_is_none_stops_the_job(tmp_path, name, content):
    write, ending = next((write, ending) for write, ending in FILES.values() if ending in name or (ending == "tfrecord" and "-of-" in name))
    write(tmp_path / f"train-0.{ending}", [1, 2])
    (tmp_path / name).write_bytes(content)

    assert f"{name} is no" in refusal(tmp_path)


def test_an_unfinished_download_is_named(tmp_path):
    wds(tmp_path / "train-0.tar", [1])
    (tmp_path / "train-1.tar.crdownload").write_bytes(b"...")

    assert "train-1.tar.crdownload is an unfinished download" in refusal(tmp_path)
