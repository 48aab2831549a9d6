"""Files whole or not at all."""

import os
import stat
from pathlib import Path

import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.storage.files import lock, published, read_json, remove_partials, write_json


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "shard"
    with published(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")

    assert path.read_bytes() == b"half and half"
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "shard"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), published(path) as file:
        file.write(b"new")
        raise RuntimeError

    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    for name in (".shard.123.partial", "shard", ".hidden", "x.partial"):
        (tmp_path / name).touch()
    remove_partials(tmp_path)

    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "shard", "x.partial"]


def test_one_folder_has_one_producer(tmp_path):
    with lock(tmp_path), pytest.raises(DataError, match="being written by another process"), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass  # let go of


def test_json_survives(tmp_path):
    write_json(tmp_path / "x.json", {"grüße": [1, 2**70]})

    assert read_json(tmp_path / "x.json") == {"grüße": [1, 2**70]}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000], ids=["cut", "bytes", "deep"])
def test_what_is_not_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)

    with pytest.raises(DataError, match=r"x\.json is not JSON"):
        read_json(tmp_path / "x.json")


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    (tmp_path / "x.json").write_bytes(b" " * 100)

    with pytest.raises(DataError, match="100 bytes, more than 99"):
        read_json(tmp_path / "x.json", limit=99)


@pytest.mark.parametrize("place", ["nowhere/file", "taken/file", "folder"])
def test_an_error_names_the_file_and_not_the_one_beside_it(tmp_path, place):
    """No such folder; a file in a folder's place; a folder in the file's."""
    (tmp_path / "taken").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="No such file|Not a directory|is not a regular file") as caught, published(tmp_path / place) as file:
        file.write(b"x")

    assert caught.value.filename == str(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "taken"]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    """A device, a pipe, a folder: as root, --out /dev/null would have made it a file."""
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder, Path()):
        with pytest.raises(OSError, match="not a regular file and cannot be replaced"), published(path):
            pass

    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [folder, pipe]
