"""Read bytes from files, by name or by range.

Nothing is unpacked, and nothing larger than an image is held in memory.
"""

import errno
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from ..errors import DataError, UndecodableImage
from ..storage.uri import Location, RemotePath, retried
from .listing import MAX_BYTES, Place, shown


def refuse_large(size: int) -> None:
    """Raise UndecodableImage for an image of more than `MAX_BYTES` bytes."""
    if size > MAX_BYTES:
        raise UndecodableImage(f"{size} bytes; at most {MAX_BYTES} are read")


class FileReader:
    """Reads images that are files below a folder; `place.name` is the path below it."""

    def __init__(self, root: Location) -> None:
        """Read below `root`."""
        self.root = root
        self.paths: list[Location] = []

    def read(self, place: Place) -> bytes:
        """Return the bytes of the file; its size and kind are checked before it is read.

        Raise UndecodableImage for a file that can never be read; OSError when the disk fails or the
        source is being deleted, which must stop the job instead of quarantining every image.
        """
        if isinstance(self.root, RemotePath):
            refuse_large(place.size)
            return (self.root / os.fsdecode(place.name)).read_bytes()
        # Not a Path, which costs as much as reading the file.
        path = os.path.join(os.fsencode(self.root), place.name)  # noqa: PTH118
        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe must not block
        except PermissionError as error:
            raise UndecodableImage("no permission to read the file") from error
        except FileNotFoundError:
            if os.path.islink(path):  # noqa: PTH114
                raise UndecodableImage("a broken symbolic link") from None
            raise
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a circle of symbolic links; a socket
                raise UndecodableImage("not a regular file") from None
            raise
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise UndecodableImage("not a regular file")
            refuse_large(status.st_size)
            parts = []
            while part := os.read(file, max(status.st_size, 1 << 16)):
                parts.append(part)
                refuse_large(sum(map(len, parts)))
            return b"".join(parts)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error
        finally:
            os.close(file)

    def where(self, place: Place) -> str:
        """Return the file's path."""
        return f"{self.root}/{shown(place.name)}"


class RangeReader:
    """Reads images that are byte ranges of a few large files, such as tars."""

    def __init__(self, paths: list[Location]) -> None:
        """Read from `paths`; `place.file` is an index in that list."""
        self.paths = paths

    def read(self, place: Place) -> bytes:
        """Return the bytes of the range; OSError if the file ends before it does."""
        refuse_large(place.size)
        return read_range(self.paths[place.file], place.offset, place.size)

    def where(self, place: Place) -> str:
        """Return file, member and range."""
        return f"{self.paths[place.file]}, member {shown(place.name)} (bytes {place.offset}..{place.offset + place.size - 1})"


def read_range(path: Location, offset: int, size: int) -> bytes:
    """Return `size` bytes at `offset`; OSError names the file if it is shorter than when listed."""
    file = _opened(path)
    if isinstance(file, _Descriptor):
        data = os.pread(file.number, size, offset)
        while 0 < len(data) < size and (more := os.pread(file.number, size - len(data), offset + len(data))):
            data += more
    else:
        # `path` is a RemotePath here.
        data = retried(lambda: bytes(file.read_at(size, offset)), path)  # type: ignore[arg-type]
    if len(data) != size:
        raise OSError(5, f"ends at byte {offset + len(data)}: it was longer when it was listed", str(path))
    return data


@lru_cache(maxsize=64)  # 1024 tars of a data set would be too many open files for some systems
def _opened(path: Location) -> Any:  # noqa: ANN401  (a descriptor or a pyarrow file)
    return path.open_random() if isinstance(path, RemotePath) else _Descriptor(path)


class _Descriptor:
    """An open file descriptor that is closed when the object is deleted."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.number)


class ByteWindow:
    """Presents part of a file as a file, for tarfile; no single read is larger than `MAX_READ`."""

    MAX_READ = 1 << 20  # bytes; a header, or the names of a pax header; a larger one is an attack

    def __init__(self, path: Location, offset: int = 0, size: int | None = None) -> None:
        """Begin at `offset`; if `size` is None, reach to the end of the file."""
        self._path, self._offset, self._at = path, offset, 0
        self._file: IO[bytes] | Any = path.open_random() if isinstance(path, RemotePath) else path.open("rb")
        self.size = path.stat().st_size - offset if size is None else size

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        if size > self.MAX_READ:
            raise DataError(f"{self._path} has a header of {size} bytes at byte {self._offset + self._at}: damaged or malicious")
        if size < 0:
            raise ValueError("the size must be given")
        self._file.seek(self._offset + self._at)
        data = bytes(self._file.read(max(0, min(size, self.size - self._at))))
        self._at += len(data)
        return data

    def seek(self, place: int) -> int:
        """Move to the offset `place`."""
        self._at = place
        return place

    def tell(self) -> int:
        """Return the current offset."""
        return self._at

    def close(self) -> None:
        """Close the file."""
        self._file.close()
