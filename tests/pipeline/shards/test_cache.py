"""Training from an object store: the bits of a local folder, through a cache of bounded size."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch
from alexprep.pipeline import DataError, Loader, read_manifest
from alexprep.pipeline.shards.cache import ShardCache
from alexprep.pipeline.storage.uri import location

from ...support.commands import command
from ...support.images import make_images
from ...support.shards import make_shards, stream, write_statistics
from ...support.stores import Proxy, upload, uri

OPTIONS = {"crop": 24, "batch_size": 20, "seed": 3}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Twenty small shards of 15 training records each, and their statistics."""
    root = tmp_path_factory.mktemp("many")
    make_images(root / "src", {"train/ant": 150, "train/bee": 150, "val/ant": 16, "val/bee": 16})
    make_shards(root / "src", root / "out", size=64, records_per_shard=15)
    write_statistics(root / "out")
    return root / "out"


@pytest.fixture(scope="module")
def stored(many, store):
    upload(many, store, "cached")
    return store


def size_of(manifest, split="train"):
    return sum(shard.bytes for shard in manifest.split(split).shards)


def same(a, b):
    return all(torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True))


def kept(folder):
    """The files of a cache and their sizes; a partial one may get its name between the listing and the look at it."""
    sizes = {}
    for path in folder.iterdir():
        if path.suffix in (".arrow", ".partial"):
            with suppress(FileNotFoundError):
                sizes[path.name] = path.stat().st_size
    return sizes


def small_pools(monkeypatch):
    """Blocks of 15 records, two to a pool."""
    from alexprep.pipeline.batches import sampler

    for module in ("batches.sampler", "batches.steps"):
        monkeypatch.setattr(f"alexprep.pipeline.{module}.BLOCK", 15)
        monkeypatch.setattr(f"alexprep.pipeline.{module}.POOL", 2)
    sampler.block_shuffled.cache_clear()


@pytest.mark.process
def test_batches_through_a_failing_store_are_those_of_the_local_folder_and_the_second_epoch_asks_it_for_nothing(many, stored, tmp_path, monkeypatch):
    monkeypatch.setattr("alexprep.pipeline.shards.cache.CHUNK", 20_000)
    local, proxy = Loader(many, **OPTIONS), Proxy(stored, failing=0.15)
    remote = Loader(uri(proxy.port, "cached"), cache=str(tmp_path / "cache"), cache_size=size_of(read_manifest(many)), **OPTIONS)

    assert same(stream(remote, 15), stream(local, 15))
    assert proxy.failed > 3
    proxy.close()
    assert same(stream(remote, 15), stream(local, 15))
    assert len(kept(tmp_path / "cache")) == 20


@pytest.mark.process
def test_block_shuffle_stays_within_a_cache_smaller_than_the_data(many, stored, tmp_path, monkeypatch):
    small_pools(monkeypatch)
    manifest = read_manifest(many)
    limit = 8 * max(shard.bytes for shard in manifest.split("train").shards)
    local = Loader(many, shuffle="block", **OPTIONS)
    remote = Loader(uri(stored, "cached"), shuffle="block", cache=str(tmp_path), cache_size=limit, **OPTIONS)
    largest = 0
    for expected, found in zip(stream(local, 30), stream(remote, 30), strict=True):
        assert same([expected], [found])
        largest = max(largest, sum(kept(tmp_path).values()))

    assert size_of(manifest) > 1.5 * limit
    assert largest <= limit
    assert len(kept(tmp_path)) > 3


@pytest.mark.process
def test_ranks_and_evaluation_share_a_cache(many, stored, tmp_path):
    """Every shard is fetched once, whoever needs it."""
    proxy, manifest = Proxy(stored, failing=0), read_manifest(many)
    limit = size_of(manifest) + size_of(manifest, "val")
    options = OPTIONS | {"cache": str(tmp_path), "cache_size": limit}
    ranks = [Loader(uri(proxy.port, "cached"), rank=rank, world_size=2, **options) for rank in range(2)]
    parts = [stream(loader, 15) for loader in ranks]
    whole = stream(Loader(many, **OPTIONS), 15)
    seen = [record for batch in Loader(uri(proxy.port, "cached"), split="val", **options) for record in batch.records.tolist()]
    proxy.close()

    for expected, *found in zip(whole, *parts, strict=True):
        assert same([expected], [[torch.cat(column) for column in zip(*found, strict=True)]])
    assert seen == list(range(32))
    assert sum(kept(tmp_path).values()) == limit


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"is read through a cache on a local disk: give cache=FOLDER \(--cache\)"),
        ({"cache": "c", "cache_size": 10_000}, r"must hold all [\d,]+ of train, since every batch takes records from all shards; or use shuffle"),
        ({"cache": "c", "cache_size": 10_000, "shuffle": "block"}, r"too small for shards of up to [\d,]+: it needs [\d,]+; or make smaller shards"),
        ({"cache": "c", "cache_size": 10_000, "split": "val"}, "too small for shards"),
        ({"cache": "/proc/nowhere"}, "the cache /proc/nowhere cannot be made"),
    ],
)
def test_a_cache_that_cannot_serve_is_refused_before_the_first_batch(stored, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        Loader(uri(stored, "cached"), **(OPTIONS | options))


@pytest.mark.process
def test_other_bytes_than_were_written_are_not_taken(many, stored, tmp_path):
    shard = read_manifest(many).split("train").shards[3]
    remote = location(uri(stored, "cached")) / shard.file
    good = remote.read_bytes()
    remote.put(good[:-20] + bytes(20))
    cache = ShardCache(tmp_path, 1 << 30)
    try:
        with pytest.raises(DataError, match=f"{shard.file} is not as it was written"):
            cache.hold(remote, shard)
        assert kept(tmp_path) == {}
        remote.put(good)
        assert cache.hold(remote, shard).read_bytes() == good
    finally:
        remote.put(good)
        cache.close()


@pytest.mark.process
def test_what_somebody_holds_is_not_evicted_and_what_was_used_longest_ago_goes_first(many, stored, tmp_path):
    shards = read_manifest(many).split("train").shards[:4]
    folder = location(uri(stored, "cached"))
    limit = sum(shard.bytes for shard in shards[:3]) + 200
    first, second = ShardCache(tmp_path, limit), ShardCache(tmp_path, limit)
    a, b, c = (first.hold(folder / shard.file, shard) for shard in shards[:3])
    with pytest.raises(DataError, match=r"needs [\d,]+ bytes, and the cache .* has [\d,]+ in use; give it more with --cache-size"):
        second.hold(folder / shards[3].file, shards[3])
    first.release(shards[1])
    first.release(shards[0])
    os.utime(b, (2_000_000_000, 2_000_000_000))
    d = second.hold(folder / shards[3].file, shards[3])
    first.close()
    second.close()

    assert [path.exists() for path in (a, b, c, d)] == [False, True, True, True]


@pytest.mark.process
def test_what_was_asked_for_and_never_used_makes_room(many, stored, tmp_path):
    """As after a jump to another step."""
    shards = read_manifest(many).split("train").shards[:3]
    folder = location(uri(stored, "cached"))
    cache = ShardCache(tmp_path, max(shard.bytes for shard in shards) * 2 + 100)
    for shard in shards[:2]:
        cache.ask(folder / shard.file, shard)
    deadline = time.monotonic() + 20
    while len(cache._held) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    path = cache.hold(folder / shards[2].file, shards[2])
    again = cache.hold(folder / shards[0].file, shards[0])

    assert path.read_bytes() == (many / shards[2].file).read_bytes()
    assert again.read_bytes() == (many / shards[0].file).read_bytes()
    cache.close()


KILLED = """
import sys
from alexprep.pipeline import read_manifest
from alexprep.pipeline.shards import cache
from alexprep.pipeline.storage.uri import location
from pathlib import Path
cache.CHUNK = 1000
shard = read_manifest(sys.argv[2]).split("train").shards[0]
print("begun", flush=True)
print(cache.ShardCache(Path(sys.argv[3]), 1 << 30).hold(location(sys.argv[1]) / shard.file, shard))
"""


@pytest.mark.process
def test_a_process_killed_while_fetching_leaves_nothing_in_the_way(many, stored, tmp_path):
    shard = read_manifest(many).split("train").shards[0]
    for number in range(4):
        with subprocess.Popen([sys.executable, "-c", KILLED, uri(stored, "cached"), many, tmp_path], stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            deadline = time.monotonic() + 20
            while not kept(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(0.02 * number)
            os.kill(process.pid, signal.SIGKILL)
    cache = ShardCache(tmp_path, shard.bytes + 10)
    path = cache.hold(location(uri(stored, "cached")) / shard.file, shard)

    assert path.read_bytes() == (many / shard.file).read_bytes()
    assert kept(tmp_path) == {path.name: shard.bytes}
    with path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    cache.close()


@pytest.mark.process
def test_training_and_evaluation_take_a_uri(stored, tmp_path):
    options = ["--cache", tmp_path / "cache", "--cache-size", "10M", "--device", "cpu"]
    run = command(
        "alextrain", "run", uri(stored, "cached"), *options, "--width", 0.05, "--batch-size", 20, "--steps", 3, "--crop", 64,
        "--set", "eval_batch_size=8", "--set", "schedule=fixed", cwd=tmp_path,
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    measured = command("alextrain", "eval", "--checkpoint", tmp_path / "runs/1", "--data", uri(stored, "cached"), *options, cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert "32 images of val" in measured.stdout
    wrong = command("alextrain", "eval", "--checkpoint", tmp_path / "runs/1", "--cache-size", "much")
    assert (wrong.returncode, "a size is a number of bytes" in wrong.stderr) == (2, True)


@pytest.mark.process
def test_only_what_is_a_cache_s_own_is_evicted(many, stored, tmp_path):
    """A folder of the user's own shards was emptied, when only the name's end was looked at."""
    own = tmp_path / "train-00000-of-00001.arrow"
    own.write_bytes(bytes(200_000))
    limit = size_of(read_manifest(many))
    stream(Loader(uri(stored, "cached"), cache=str(tmp_path), cache_size=limit, **OPTIONS), 15)

    assert own.stat().st_size == 200_000
    assert len(kept(tmp_path)) == 21


@pytest.mark.process
@pytest.mark.parametrize("place", ["nothing", "header", "images"])
def test_a_damaged_file_in_the_cache_is_fetched_again(many, stored, tmp_path, place):
    """Of the right size, but not what was written: the store is asked once more, and the batches are as they were."""
    manifest = read_manifest(many)
    options = OPTIONS | {"cache": str(tmp_path), "cache_size": size_of(manifest)}
    stream(Loader(uri(stored, "cached"), **options), 15)
    for path in list(tmp_path.glob("*.arrow"))[:4]:
        with path.open("r+b") as file:
            if place == "nothing":
                file.write(bytes(path.stat().st_size))
            elif place == "header":
                file.seek(-200, 2)
                file.write(bytes(100))
            else:
                file.seek(path.stat().st_size // 3)
                file.write(bytes(3000))

    for on_bad in ("raise", "skip"):
        loader = Loader(uri(stored, "cached"), on_bad=on_bad, **options)
        assert same(stream(loader, 15), stream(Loader(many, **OPTIONS), 15))
        assert not loader.substitutes
    assert all(ShardCache(tmp_path, 1 << 30).is_good(shard) for shard in manifest.split("train").shards)


@pytest.mark.process
def test_a_program_that_ends_does_not_wait_for_what_is_still_to_come(many, stored, tmp_path):
    """Twenty downloads of a second each were asked for; the loader ends after its first batch."""
    code = f"""
import time
import alexprep.pipeline.shards.cache as cache
inner = cache.ShardCache._download
cache.ShardCache._download = lambda *arguments: (time.sleep(1), inner(*arguments))
from alexprep.pipeline import Loader
loader = Loader({uri(stored, "cached")!r}, shuffle="none", crop=24, batch_size=1, cache={str(tmp_path)!r}, cache_size=1 << 30)
next(iter(loader))
print(time.time(), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert time.time() - float(done.stdout) < 4
    assert len(list(tmp_path.glob("*.arrow"))) < 20


@pytest.mark.parametrize("cache", ["", "s3://data/cache"])
def test_a_cache_is_a_local_folder(many, cache):
    with pytest.raises(ValueError, match="cache must be a local folder"):
        Loader(many, cache=cache)


@pytest.mark.process
@pytest.mark.parametrize("name", ["{sha}.partial", ".{sha}.lock"])
def test_a_cache_that_cannot_be_used_is_said_with_what_to_do(many, stored, tmp_path, name):
    for shard in read_manifest(many).split("train").shards:
        (tmp_path / name.format(sha=shard.sha256)).mkdir()

    with pytest.raises(DataError, match="give the cache another folder"):
        stream(Loader(uri(stored, "cached"), cache=str(tmp_path), cache_size=1 << 30, **OPTIONS), 1)
