"""Shards of an object store, kept on a local disk: whole, checked, in bounded space, shared by all processes of a machine.

A shard is kept under its SHA-256, so that data sets and ranks share what is equal. Who uses a file holds a shared lock on it, which
the system takes back however the process ends; only what nobody holds is evicted, the least recently opened first.
"""

import fcntl
import hashlib
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from ..errors import DataError
from ..storage.files import file_sha256
from ..storage.uri import RemotePath, retried
from .manifest import Shard, is_sha256

CHUNK = 8 << 20  # bytes of one read from the store
ATTEMPTS = 3  # downloads of a shard, each with its own retries of a failing store, before its bytes are taken for wrong
AT_A_TIME = 4  # downloads
_PARTIAL, _SHARD = ".partial", ".arrow"


class ShardCache:
    """A folder of shards, of at most `limit` bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Make the folder if need be; DataError if that cannot be."""
        self.folder, self.limit = folder, limit
        self._held: dict[str, int] = {}  # open files, by SHA-256; their locks keep them
        weakref.finalize(self, _close_all, self._held)
        self._coming: dict[str, Future[None]] = {}
        self._wanted: SimpleQueue[tuple[Future[None], RemotePath, Shard] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._good: set[str] = set()
        self._closed, self._process = False, os.getpid()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"the cache {folder} cannot be made: {error.strerror}") from error

    def ask(self, source: RemotePath, shard: Shard) -> None:
        """Begin to fetch a shard, if it is not here."""
        if self._process != os.getpid():  # a fork: its parent's threads, and what they fetch, stayed there
            self._process, self._threads, self._coming, self._wanted = os.getpid(), [], {}, SimpleQueue()
        if shard.sha256 not in self._held and shard.sha256 not in self._coming:
            self._coming[shard.sha256] = coming = Future[None]()
            self._wanted.put((coming, source, shard))
            if len(self._threads) < AT_A_TIME:  # daemons: what still comes is waited for neither at a program's end nor at an error
                self._threads.append(threading.Thread(target=self._work, name="alexprep-cache", daemon=True))
                self._threads[-1].start()

    def _work(self) -> None:
        """Fetch what is wanted, one after the other."""
        while (item := self._wanted.get()) is not None:
            coming, source, shard = item
            if coming.set_running_or_notify_cancel():
                try:
                    self._fetch(source, shard)
                    coming.set_result(None)
                except BaseException as error:
                    coming.set_exception(error)
            del item, coming

    def hold(self, source: RemotePath, shard: Shard) -> Path:
        """Return the local file of a shard, which stays until `release`; DataError if there is no room, or the bytes are wrong."""
        self.ask(source, shard)
        coming = self._coming.pop(shard.sha256, None)
        try:
            if coming is not None:
                try:
                    coming.result()
                except DataError:  # it was asked for when there was no room yet
                    self._let_go_of_unused()
                    self._fetch(source, shard)
        except OSError as error:
            where = str(error.filename or self.folder)
            remedy = "give the cache another folder" if where.startswith(str(self.folder)) else "go on with the same command when the store answers"
            raise DataError(f"{where}: {error.strerror or error}; {remedy}") from error
        return self._path(shard)

    def is_good(self, shard: Shard) -> bool:
        """Tell whether the local file has the bytes that were written; of a good one, that is found out once."""
        with suppress(OSError):
            if shard.sha256 not in self._good and file_sha256(self._path(shard)) == shard.sha256:
                self._good.add(shard.sha256)
        return shard.sha256 in self._good

    def delete(self, shard: Shard) -> None:
        """Release and delete a bad file; whoever holds it keeps what it has."""
        self._good.discard(shard.sha256)
        self.release(shard)
        self._path(shard).unlink(missing_ok=True)

    def release(self, shard: Shard) -> None:
        """Let others evict it."""
        self._release(shard.sha256)

    def _release(self, sha256: str) -> None:
        file = self._held.pop(sha256, None)
        if file is not None:
            os.close(file)

    def _let_go_of_unused(self) -> None:
        """Release what was asked for and is here: after a jump to another step nobody may want it, and it can be fetched again."""
        for sha256 in [sha256 for sha256, coming in self._coming.items() if coming.done()]:
            del self._coming[sha256]
            self._release(sha256)

    def close(self) -> None:
        """Stop fetching, and release everything."""
        self._closed = True
        with suppress(Empty):
            while True:
                item = self._wanted.get_nowait()
                if item is not None:
                    item[0].cancel()
        for _ in self._threads:
            self._wanted.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        _close_all(self._held)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}{_SHARD}"

    def _fetch(self, source: RemotePath, shard: Shard) -> None:
        """Have the shard here, and hold it. One process fetches; the others wait for it."""
        with _locked(self.folder / f".{shard.sha256}.lock"):
            if self._take(shard):
                return
            partial = self._path(shard).with_suffix(_PARTIAL)
            partial.unlink(missing_ok=True)  # of a process that was killed
            with _locked(self.folder / ".lock"):
                self._make_room(shard.bytes, source)
                with partial.open("wb") as file:
                    file.truncate(shard.bytes)  # counted from now on
            try:
                self._download(source, shard, partial)
                partial.replace(self._path(shard))
            finally:
                partial.unlink(missing_ok=True)
            if not self._take(shard):
                raise DataError(f"{self._path(shard)} was deleted as soon as it was there; give the cache a folder that nothing else cleans up")

    def _take(self, shard: Shard) -> bool:
        """Hold the file if it is there in full."""
        try:
            file = os.open(self._path(shard), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is not waited for
        except FileNotFoundError:
            return False
        fcntl.flock(file, fcntl.LOCK_SH)
        status = os.fstat(file)
        if status.st_nlink == 0 or status.st_size != shard.bytes:  # evicted meanwhile, or somebody's doing
            os.close(file)
            return False
        os.utime(file)
        self._held[shard.sha256] = file
        return True

    def _download(self, source: RemotePath, shard: Shard, partial: Path) -> None:
        for _ in range(ATTEMPTS):
            digest = hashlib.sha256()
            with partial.open("r+b") as file, source.open_random() as remote:
                for start in range(0, shard.bytes, CHUNK):
                    if self._closed:
                        raise DataError(f"{source} is not wanted any more")
                    length = min(CHUNK, shard.bytes - start)
                    data = retried(lambda: remote.read_at(length, start), source)  # noqa: B023  (called at once)
                    digest.update(data)
                    self._write(file, data)
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() == shard.sha256:
                return
        raise DataError(f"{source} is not as it was written (its SHA-256 differs, {ATTEMPTS} times); alexprep repair makes it again")

    def _write(self, file: IO[bytes], data: bytes) -> None:
        try:
            file.write(data)
        except OSError as error:
            raise DataError(
                f"the cache {self.folder} cannot be written: {error.strerror}; give it another folder, or a smaller --cache-size"
            ) from error

    def _make_room(self, size: int, source: RemotePath) -> None:
        """Delete what nobody holds until `size` bytes fit; call it under the folder's lock."""
        files = []
        for path in self.folder.iterdir():
            if path.suffix in (_SHARD, _PARTIAL) and is_sha256(path.stem):  # nothing else is ours to delete
                with suppress(FileNotFoundError):
                    status = path.stat()
                    files.append((path.suffix != _PARTIAL, status.st_mtime_ns, status.st_size, path))
        used = sum(length for _, _, length, _ in files)
        for _, _, length, path in sorted(files):
            if used + size <= self.limit:
                return
            if _evicted(path):
                used -= length
        if used + size > self.limit:
            raise DataError(
                f"{source} needs {size:,} bytes, and the cache {self.folder} of {self.limit:,} has {used:,} in use; give it more with --cache-size"
            )


def _close_all(files: dict[str, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def _evicted(path: Path) -> bool:
    """Delete a file that nobody holds, or that a killed process was writing; tell whether it is gone."""
    guard = path.with_name(f".{path.stem}.lock") if path.suffix == _PARTIAL else path
    try:
        with guard.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for an exclusive lock."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
