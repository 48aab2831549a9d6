"""Read the files that `alexprep serve` serves, as a read-only file system of pyarrow.fs.

The files are the manifest, statistics, sidecars and shards of one data set.

In:  names.    Out: bytes, from any of the servers, all of the data set that was found first.
"""

import io
import json
import os
import time
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType

from ..names import safe_file
from .flight_client import MOST_READ, NotHere, Servers

LISTED_SECONDS = 10.0  # seconds that a list of files is cached
LARGEST = 1 << 60  # upper limit of a file's bytes; no file system has larger files


class ServedFolder(FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """The files of a served data set, read only, for pyarrow.fs."""

    def __init__(self, uri: str) -> None:
        """Parse the servers' addresses; do not connect."""
        self._servers = Servers(uri)
        self._listed: tuple[float, dict[str, int]] = (0.0, {})
        self._identity: str | None = None  # data set that was found first; no other is read

    def get_type_name(self) -> str:
        """Return the name of the file system."""
        return "alexprep-serve"

    def normalize_path(self, path: str) -> str:
        """Return `path` unchanged."""
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """Return the type and size of each path."""
        sizes = self._sizes()
        return [_info(path, sizes.get(path.lstrip("/"))) for path in paths]

    def get_file_info_selector(self, _selector: FileSelector) -> list[FileInfo]:
        """Return the type and size of every file."""
        return [_info(name, size) for name, size in self._sizes().items()]

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open a file for reads at any offset."""
        name = path.lstrip("/")
        size = self._sizes().get(name)
        if size is None:
            raise FileNotFoundError(2, "no such file", path)
        return pa.PythonFile(io.BufferedReader(_Ranges(self._servers, self._identity, name, size), 1 << 16), mode="r")

    open_input_stream = open_input_file

    def _sizes(self) -> dict[str, int]:
        when, sizes = self._listed
        if time.monotonic() - when > LISTED_SECONDS or not sizes:
            sizes, self._identity = self._servers.act("files", {"identity": self._identity}, read=_files)
            self._listed = (time.monotonic(), sizes)
        return sizes

    def _refuse(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401  (pyarrow's)
        raise PermissionError(1, "a served data set is read only", self._servers.uri)

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = move = copy_file = _refuse
    open_output_stream = open_append_stream = _refuse


def _files(answer: bytes) -> tuple[dict[str, int], str]:
    """Return {name: bytes} of a server's files, and the identity of its data set. Raise NotHere if the answer is not valid."""
    try:
        found = json.loads(answer)
        files, identity = found["files"], found["identity"]
        if not isinstance(identity, str) or not isinstance(files, dict):
            raise TypeError("the names and sizes, or the identity, are missing")
        for name, size in files.items():
            safe_file(name, "the file")
            if type(size) is not int or not 0 <= size < LARGEST:
                raise ValueError(f"{name} cannot have {size!r} bytes")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"its list of files is damaged or of another release of alexprep ({error}): install the same release on the server and here"
        raise NotHere(reason) from error
    return files, identity


def _info(path: str, size: int | None) -> FileInfo:
    return FileInfo(path, FileType.NotFound) if size is None else FileInfo(path, FileType.File, size=size)


class _Ranges(io.RawIOBase):
    """A file of the servers, read range by range."""

    def __init__(self, servers: Servers, identity: str | None, name: str, size: int) -> None:
        self._servers, self._identity, self._name, self._size, self._at = servers, identity, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (a writable buffer)
        length = min(len(buffer), self._size - self._at, MOST_READ)
        if length <= 0:
            return 0
        part = {"identity": self._identity, "file": self._name, "offset": self._at, "length": length}
        buffer[:length] = self._servers.act("read", part, length=length)
        self._at += length
        return length
