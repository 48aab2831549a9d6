"""Read and write files of object stores and other remote file systems through a pathlib-like class.

Any URI that pyarrow.fs knows works: s3, gs, abfss, hf, hdfs, fsspec+...

In:  a URI from the user.    Out: bytes; complete objects under their final name, or nothing.
"""

import fnmatch
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from ..addresses import SERVED
from ..errors import DataError
from .local import read_local

T = TypeVar("T")
# Attempts per request; the waits between them are 0.2, 0.4, ... 3.2 s, six seconds in all.
# The store's own client may retry in addition.
ATTEMPTS = 6
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
OBJECT_STORES = ("s3", "gcs", "abfs")  # stores whose folders are only prefixes of names


def location(where: "str | Path | RemotePath") -> "Path | RemotePath":
    """Return `where` as a RemotePath if it is scheme://..., as a Path for file:// and others."""
    if isinstance(where, RemotePath):
        return where
    text = str(where)
    # click passes a Path, which turns s3://a into s3:/a
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/{1,2}", text)
    if scheme is None:
        return Path(text)
    if scheme[1] == "file":
        return Path("/" + text[scheme.end() :].lstrip("/"))
    return RemotePath(f"{scheme[1]}://{text[scheme.end() :].rstrip('/')}")


@dataclass(frozen=True)
class RemotePath:
    """A file or folder of a remote file system; pickles as its URI."""

    root: str  # URI that the user gave, with any ?endpoint_override=...
    below: str = ""  # path below the root

    def __truediv__(self, name: str) -> "RemotePath":
        """Return the path of `name` in this folder."""
        return RemotePath(self.root, f"{self.below}/{name}" if self.below else name)

    def __str__(self) -> str:
        """Return the URI without its query and user name, which may hold keys."""
        base = re.sub(r"//[^/@]*@", "//", self.root.partition("?")[0].rstrip("/"))
        return f"{base}/{self.below}" if self.below else base

    def __fspath__(self) -> str:
        """Raise DataError: this is not a local file."""
        raise DataError(f"{self} is not a local folder; copy it here first")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rpartition("/")[2]

    @property
    def parent(self) -> "RemotePath":
        """The folder that contains it (the root's parent is the root)."""
        return RemotePath(self.root, self.below.rpartition("/")[0])

    def with_name(self, name: str) -> "RemotePath":
        """Return the path of `name` in the same folder."""
        return self.parent / name

    def is_file(self) -> bool:
        """Return whether this is an existing file."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Return whether this is an existing folder; the root always counts as one."""
        return not self.below or self._info().type.name == "Directory"

    def exists(self) -> bool:
        """Return whether a file or a folder of this name exists."""
        return self.is_file() or self.is_dir()

    def stat(self) -> Any:  # noqa: ANN401  (the known part of os.stat_result)
        """Return an object with st_size; raise FileNotFoundError if there is no such file."""
        info = self._info()
        if not info.is_file:
            raise FileNotFoundError(2, "no such file", str(self))
        return SimpleNamespace(st_size=info.size)

    def read_bytes(self) -> bytes:
        """Return the whole content."""

        def read() -> bytes:
            # open_input_stream is sixty times slower on S3.
            with self._filesystem.open_input_file(self._path) as file:
                return bytes(file.read())

        return retried(read, self)

    def open_random(self) -> Any:  # noqa: ANN401  (a pyarrow.NativeFile)
        """Open the file for reads at any offset."""
        return retried(lambda: self._filesystem.open_input_file(self._path), self)

    def entries(self, *, recursive: bool = False) -> list[Any]:
        """Return pyarrow FileInfos of this folder's entries, by path; none if it does not exist."""
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._path, allow_not_found=True, recursive=recursive)
        return sorted(retried(lambda: self._filesystem.get_file_info(selector), self), key=lambda info: info.path)

    def relative(self, path: str) -> str:
        """Return a path from `entries()` relative to this folder."""
        return path.removeprefix(self._path.rstrip("/")).lstrip("/")

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yield the files in this folder whose names match `pattern`."""
        yield from (self / info.base_name for info in self.entries() if info.is_file and fnmatch.fnmatchcase(info.base_name, pattern))

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yield the files and folders in this folder."""
        yield from (self / info.base_name for info in self.entries())

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the file."""
        try:
            retried(lambda: self._filesystem.delete_file(self._path), self)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Create the folder, except in object stores, which have no folders.

        Missing parents are always created, and an existing folder is never an error.
        """
        del parents, exist_ok
        if self._filesystem.type_name not in OBJECT_STORES:
            self._filesystem.create_dir(self._path, recursive=True)

    def put(self, data: Any) -> None:  # noqa: ANN401  (any buffer)
        """Store `data` (a buffer) under this name, completely or not at all.

        There is one write of everything, and a close that completes the object. If a part fails,
        the close fails too and the object never appears; a killed process completes nothing. (A
        `with` block would complete a truncated object on any error.) Raise OSError on failure.
        """
        size = memoryview(data).nbytes

        def put() -> None:
            if self._filesystem.type_name not in OBJECT_STORES:
                self._put_aside(data)
                return
            stream = self._filesystem.open_output_stream(self._path)
            stream.write(data)
            stream.close()

        retried(put, self)
        if self.stat().st_size != size:
            raise OSError(5, f"{self.stat().st_size} bytes arrived instead of {size}", str(self))

    def _put_aside(self, data: Any) -> None:  # noqa: ANN401  (any buffer)
        """Write `data` to a temporary file and rename it.

        This is for file systems with a real rename (hdfs, ssh, memory): they show a file while it is being written.
        """
        folder, _, name = self._path.rpartition("/")
        aside = f"{folder}/.{name}.{os.getpid()}.partial"
        with self._filesystem.open_output_stream(aside) as stream:
            stream.write(data)
        self._filesystem.move(aside, self._path)

    def _info(self) -> Any:  # noqa: ANN401  (a pyarrow FileInfo)
        return retried(lambda: self._filesystem.get_file_info(self._path), self)

    @property
    def _filesystem(self) -> Any:  # noqa: ANN401  (a pyarrow FileSystem)
        return _opened(self.root)[0]

    @property
    def _path(self) -> str:
        base = _opened(self.root)[1].rstrip("/")
        return f"{base}/{self.below}" if self.below else base


@lru_cache(maxsize=16)
def _opened(root: str) -> tuple[Any, str]:
    """Return (file system, path) of a URI; raise DataError if it cannot be opened."""
    import pyarrow as pa
    from pyarrow.fs import FileSystem, PyFileSystem

    if root.startswith(SERVED):
        from .flight_fs import ServedFolder  # imported here because few programs need it

        return PyFileSystem(ServedFolder(root)), ""
    try:
        filesystem, path = FileSystem.from_uri(root)
    except (pa.ArrowException, OSError, ValueError, ImportError) as error:
        shown = root.partition("?")[0]
        raise DataError(f"{shown} cannot be opened: {error}. Expected a local folder or a URI such as s3://bucket/folder") from error
    return filesystem, path


Location = Path | RemotePath


def is_served(directory: Location) -> bool:
    """Return whether `directory` is served by `alexprep serve`."""
    return isinstance(directory, RemotePath) and directory.root.startswith(SERVED)


def read_file(path: Location, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes; raise errors as `read_local` does."""
    if isinstance(path, RemotePath):
        size = path.stat().st_size
        if size > limit:
            raise DataError(f"{path} has {size:,} bytes, more than {limit:,}: check that it is the right file")
        return path.read_bytes()
    return read_local(path, limit)


def present(directory: Location) -> dict[str, int]:
    """Return {name: bytes} of the files in `directory`, from one listing; {} if it is missing."""
    if isinstance(directory, RemotePath):
        return {info.base_name: info.size for info in directory.entries() if info.is_file}
    try:
        with os.scandir(directory) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except FileNotFoundError:
        return {}


def retried(work: Callable[[], T], where: RemotePath) -> T:
    """Return `work()`, retried with growing pauses while the store fails.

    After ATTEMPTS failures, raise OSError, which names the file `where`. Errors that waiting will
    not change (no such file, no permission) are raised at once.
    """
    import pyarrow as pa

    for attempt in range(ATTEMPTS):
        try:
            return work()
        except PERMANENT:
            raise
        except (OSError, pa.ArrowException) as error:
            if attempt == ATTEMPTS - 1 or re.search(r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH", str(error)):
                raise OSError(5, f"the store failed {attempt + 1} times: {error}", str(where)) from error
            # Jitter: a thousand workers should not retry at the same moment.
            time.sleep(0.2 * 2**attempt * (0.75 + random.random() / 2))
    raise AssertionError
