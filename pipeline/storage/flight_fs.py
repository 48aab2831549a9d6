"""The files of a data set that `alexprep serve` serves, as a file system of pyarrow.fs, read only: manifest, statistics, sidecars, ranges of shards.

In:  names.    Out: bytes, all of the one data set that was found first, whichever servers they came from.
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

LISTED_SECONDS = 10.0  # that a list of files is believed
LARGEST = 1 << 60  # bytes of a file; no file system has larger ones


class ServedFolder(FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """The files of a served data set, read only, for pyarrow.fs: manifest, statistics, sidecars, and ranges of shards."""

    def __init__(self, uri: str) -> None:
        """Take the servers' addresses."""
        self._servers = Servers(uri)
        self._listed: tuple[float, dict[str, int]] = (0.0, {})
        self._identity: str | None = None  # of the data set that was found first: no other is read

    def get_type_name(self) -> str:
        """Name the file system."""
        return "alexprep-serve"

    def normalize_path(self, path: str) -> str:
        """Return a path as it is."""
        return path

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        """Return the files' sizes."""
        sizes = self._sizes()
        return [_info(path, sizes.get(path.lstrip("/"))) for path in paths]

    def get_file_info_selector(self, _selector: FileSelector) -> list[FileInfo]:
        """Return all files."""
        return [_info(name, size) for name, size in self._sizes().items()]

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open for reading at any place."""
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
    """Return name -> bytes of the files that a server says it has, and which data set that is; NotHere if it cannot be so."""
    try:
        found = json.loads(answer)
        files, identity = found["files"], found["identity"]
        if not isinstance(identity, str) or not isinstance(files, dict):
            raise TypeError("it has no names and sizes, or no identity")
        for name, size in files.items():
            safe_file(name, "the file")
            if type(size) is not int or not 0 <= size < LARGEST:
                raise ValueError(f"{name} cannot have {size!r} bytes")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"it lists its files as another release of alexprep would, or is at fault ({error}): install the same one there and here"
        raise NotHere(reason) from error
    return files, identity


def _info(path: str, size: int | None) -> FileInfo:
    return FileInfo(path, FileType.NotFound) if size is None else FileInfo(path, FileType.File, size=size)


class _Ranges(io.RawIOBase):
    """A file of the servers, read in ranges."""

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
