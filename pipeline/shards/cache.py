"""Cache shards of an object store on a local disk, for all processes of a machine.

Cached shards are complete and checked, and together they have at most a given size. A shard is
stored under its SHA-256, so that data sets and ranks share equal shards. A process holds a shared
lock on each file it uses; the system releases the lock however the process ends. Shards that
nobody holds are evicted, the least recently opened first.
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
from .sidecar import Shard, is_sha256

CHUNK = 8 << 20  # bytes per read from the store
# Downloads of a shard before its checksum counts as wrong. Each retries reads that the store fails.
ATTEMPTS = 3
AT_A_TIME = 4  # maximum concurrent downloads
_PARTIAL, _SHARD = ".partial", ".arrow"


class ShardCache:
    """A folder of cached shards, of at most `limit` bytes in all."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Create the folder if it does not exist; raise DataError if that fails."""
        self.folder, self.limit = folder, limit
        self._held: dict[str, int] = {}  # open, locked files by SHA-256
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
        """Start to download a shard in the background, unless this process holds or awaits it."""
        # After a fork: the threads and their downloads stayed in the parent.
        if self._process != os.getpid():
            self._process, self._threads, self._coming, self._wanted = os.getpid(), [], {}, SimpleQueue()
        if shard.sha256 not in self._held and shard.sha256 not in self._coming:
            self._coming[shard.sha256] = coming = Future[None]()
            self._wanted.put((coming, source, shard))
            # Daemon threads: downloads in progress delay neither the program's end nor an error.
            if len(self._threads) < AT_A_TIME:
                self._threads.append(threading.Thread(target=self._work, name="alexprep-cache", daemon=True))
                self._threads[-1].start()

    def _work(self) -> None:
        """Download the shards in the queue, one after another."""
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
        """Return the local file of a shard; it is not evicted before `release`.

        Raise DataError if there is no room, if the bytes are wrong, or if the store or disk fails.
        """
        self.ask(source, shard)
        coming = self._coming.pop(shard.sha256, None)
        try:
            if coming is not None:
                try:
                    coming.result()
                except DataError:  # it may have been asked for when there was no room yet
                    self._let_go_of_unused()
                    self._fetch(source, shard)
        except OSError as error:
            where = str(error.filename or self.folder)
            remedy = "give the cache another folder" if where.startswith(str(self.folder)) else "run the same command again when the store answers"
            raise DataError(f"{where}: {error.strerror or error}; {remedy}") from error
        return self._path(shard)

    def is_good(self, shard: Shard) -> bool:
        """Return whether the local file has the right checksum; a good file is checked once."""
        with suppress(OSError):
            if shard.sha256 not in self._good and file_sha256(self._path(shard)) == shard.sha256:
                self._good.add(shard.sha256)
        return shard.sha256 in self._good

    def delete(self, shard: Shard) -> None:
        """Release and delete a bad file; processes that hold it can still read their copy."""
        self._good.discard(shard.sha256)
        self.release(shard)
        self._path(shard).unlink(missing_ok=True)

    def release(self, shard: Shard) -> None:
        """Allow the shard to be evicted."""
        self._release(shard.sha256)

    def _release(self, sha256: str) -> None:
        file = self._held.pop(sha256, None)
        if file is not None:
            os.close(file)

    def _let_go_of_unused(self) -> None:
        """Release shards that were downloaded but not used yet.

        After a jump to another step they may not be needed; if they are, they are downloaded again.
        """
        for sha256 in [sha256 for sha256, coming in self._coming.items() if coming.done()]:
            del self._coming[sha256]
            self._release(sha256)

    def close(self) -> None:
        """Stop downloads and release all shards."""
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
        """Download the shard if necessary and hold it. One process downloads; the others wait."""
        with _locked(self.folder / f".{shard.sha256}.lock"):
            if self._take(shard):
                return
            partial = self._path(shard).with_suffix(_PARTIAL)
            partial.unlink(missing_ok=True)  # left by a killed process
            with _locked(self.folder / ".lock"):
                self._make_room(shard.bytes, source)
                with partial.open("wb") as file:
                    file.truncate(shard.bytes)  # reserves the space: other processes count it
            try:
                self._download(source, shard, partial)
                partial.replace(self._path(shard))
            finally:
                partial.unlink(missing_ok=True)
            if not self._take(shard):
                raise DataError(f"{self._path(shard)} was deleted right after its download; give the cache a folder that nothing else cleans up")

    def _take(self, shard: Shard) -> bool:
        """Hold the file and return True if it is complete; return False otherwise."""
        try:
            # O_NONBLOCK: do not wait for the writer of a pipe.
            file = os.open(self._path(shard), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        fcntl.flock(file, fcntl.LOCK_SH)
        status = os.fstat(file)
        # It was evicted meanwhile, or something else changed its size.
        if status.st_nlink == 0 or status.st_size != shard.bytes:
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
                        raise DataError(f"{source}: the download was cancelled")
                    length = min(CHUNK, shard.bytes - start)
                    # B023: the function is called at once.
                    data = retried(lambda: remote.read_at(length, start), source)  # noqa: B023
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
        """Evict shards until `size` bytes fit; the caller must hold the folder's lock.

        Raise DataError if the shards that are held leave too little room.
        """
        files = []
        for path in self.folder.iterdir():
            # Other files were not written by the cache, and are never deleted.
            if path.suffix in (_SHARD, _PARTIAL) and is_sha256(path.stem):
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
    """Delete a file unless a process holds or writes it; return whether it is gone."""
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
    """Hold an exclusive lock on `path`; wait until it is free."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
