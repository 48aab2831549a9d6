"""Sources and shards in an object store: a real S3 server on this machine, behind a proxy that fails and dawdles."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alexprep.pipeline import read_manifest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.storage.files import published
from alexprep.pipeline.storage.uri import RemotePath, location

from ...support import shapes
from ...support.commands import command
from ...support.images import make_images
from ...support.shards import make_shards
from ...support.stores import KEYS, Proxy, free_port, upload, uri


@pytest.fixture(scope="module")
def calm(images, tmp_path_factory):
    """Shards of the same images in a local folder."""
    out = tmp_path_factory.mktemp("calm") / "out"
    make_shards(images, out, size=32)
    return out


def stored(port, below):
    """Name -> bytes of what lies in the store."""
    folder = location(uri(port, below))
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def same(found, calm):
    expected = {path.name: path.read_bytes() for path in calm.iterdir() if not path.name.startswith(".")}
    assert set(found) == set(expected)
    for name, data in expected.items():
        if name in ("manifest.json", "job.json"):
            a, b = json.loads(found[name]), json.loads(data)
            assert a.pop("source")["shape"] == b.pop("source")["shape"]
            assert a == b
        else:
            assert found[name] == data, name


@pytest.mark.process
def test_shards_in_a_store_that_fails_and_dawdles_are_those_of_a_local_folder(images, calm, store, proxy):
    upload(images, store, "images")
    run = command("alexprep", "shard", "--src", uri(proxy.port, "images"), "--out", uri(proxy.port, "out"), "--size", "32", "--workers", "2")

    assert run.returncode == 0, run.stderr
    assert proxy.failed > 10
    same(stored(store, "out"), calm)
    for verb in (["verify", "--deep"], ["stats", "--pca"]):
        said = command("alexprep", verb[0], uri(store, "out"), *verb[1:])
        assert said.returncode == 0, said.stderr


@pytest.mark.process
def test_one_put_a_file_when_nothing_fails(images, calm, store):
    proxy = Proxy(store, failing=0)
    try:
        run = command("alexprep", "shard", "--src", images, "--out", uri(proxy.port, "puts"), "--size", "32", "--workers", "1")
    finally:
        proxy.close()

    assert run.returncode == 0, run.stderr
    names = [path.partition("?")[0].rpartition("/")[2] for path in proxy.puts]
    assert sorted(names) == sorted(path.name for path in calm.iterdir() if not path.name.startswith("."))


@pytest.mark.process
def test_a_tar_in_a_store_is_read_by_ranges(store, tmp_path):
    splits = shapes.imagenet()
    upload(shapes.tars(splits, tmp_path / "tars"), store, "tars")
    run = command("alexprep", "shard", "--src", uri(store, "tars"), "--out", tmp_path / "out", "--size", "32", "--workers", "1")
    make_shards(shapes.folder(splits, tmp_path / "src"), tmp_path / "calm", size=32)

    assert run.returncode == 0, run.stderr
    for path in (tmp_path / "calm").glob("*.arrow"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.process
def test_a_producer_killed_while_it_uploads_leaves_whole_objects_and_is_continued(images, calm, store):
    proxy = Proxy(store, failing=0)
    arguments = ["shard", "--src", images, "--out", uri(proxy.port, "killed"), "--size", "32", "--workers", "1"]
    try:
        for puts in (2, 4, 7):
            del proxy.puts[:]
            process = subprocess.Popen([Path(sys.executable).parent / "alexprep", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while len(proxy.puts) < puts and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            for name, data in stored(store, "killed").items():
                assert name in ("job.json", "manifest.json") or (calm / name).read_bytes() == data, name
        run = command("alexprep", *arguments)
    finally:
        proxy.close()

    assert run.returncode == 0, run.stderr
    same(stored(store, "killed"), calm)


@pytest.mark.process
def test_a_store_that_is_down_is_named_after_some_patience(images, tmp_path):
    run = command("alexprep", "shard", "--src", images, "--out", uri(free_port(), "nowhere"), "--size", "32", env=KEYS)

    assert run.returncode == 1
    assert "s3://data/nowhere" in run.stderr
    assert "the store failed" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.process
def test_an_error_in_a_writer_puts_no_object(store):
    path = location(uri(store, "aborted")) / "half"
    with pytest.raises(RuntimeError), published(path) as file:
        file.write(b"half")
        raise RuntimeError

    assert not path.is_file()


@pytest.mark.process
def test_part_of_a_large_object_that_fails_puts_no_object(store):
    """Twenty megabytes go up in parts; the store fails for good in the middle."""
    proxy = Proxy(store, failing=0)
    path = location(uri(proxy.port, "large")) / "object"
    path.put(b"warm")
    (location(uri(store, "large")) / "object").unlink()
    seen = len(proxy.puts)

    handler = proxy.server.RequestHandlerClass
    for name in ("do_PUT", "do_POST"):
        original = getattr(handler, name)

        def sometimes(self, original=original):
            if len(proxy.puts) >= seen + 1:
                self.body()
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            original(self)

        setattr(handler, name, sometimes)
    try:
        with pytest.raises(OSError, match="object"):
            path.put(os.urandom(20 << 20))
        assert not (location(uri(store, "large")) / "object").is_file()
    finally:
        proxy.close()


def test_local_paths_and_uris_are_told_apart():
    assert isinstance(location("shards"), Path)
    assert location("file:///tmp/x") == Path("/tmp/x")
    assert isinstance(location("s3://bucket/x/"), RemotePath)
    assert str(location("s3://key:secret@bucket/x?scheme=http") / "a.arrow") == "s3://bucket/x/a.arrow"
    assert str(location(Path("s3://bucket/x"))) == "s3://bucket/x"


def test_what_needs_local_files_says_so():
    with pytest.raises(DataError, match="is not a local folder; copy it here first"):
        os.fspath(location("s3://bucket/shards"))


def test_an_unknown_scheme_is_explained():
    with pytest.raises(DataError, match="expected a local folder or a URI such as s3://bucket/folder|cannot be opened"):
        read_manifest("nonsense://x/y")


def test_a_memory_file_system_of_fsspec_works_too(tmp_path, images):
    """Any file system with a rename: files appear whole there as well."""
    path = location("fsspec+memory://shards") / "a"
    with published(path) as file:
        file.write(b"abc")

    assert path.read_bytes() == b"abc"
    assert path.stat().st_size == 3
    assert [found.name for found in path.parent.iterdir()] == ["a"]
    path.unlink()
    assert not path.is_file()


@pytest.mark.process
def test_images_of_a_remote_folder_are_listed_in_one_go(store, tmp_path):
    from alexprep.pipeline.sources import find_source

    upload(make_images(tmp_path / "src", {"train/a": 2, "train/b/deep": 1, "val/a": 1}), store, "tree")
    shutil.rmtree(tmp_path / "src")
    source = find_source(uri(store, "tree"))

    keys = [key for listing in source.listings() for key, _, _ in listing.rows()]
    assert keys == [b"train/a/000.JPEG", b"train/a/001.JPEG", b"train/b/deep/000.JPEG", b"val/a/000.JPEG"]
