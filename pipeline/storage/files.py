"""Write files atomically, lock folders for one producer, and read JSON from untrusted sources.

In:  bytes and a file name.    Out: a complete file of that name, or none.
"""

import errno
import fcntl
import hashlib
import io
import json
import mmap
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..errors import DataError
from .uri import Location, RemotePath, read_file

PARTIAL = ".partial"
MOST_JSON = 1 << 28  # maximum bytes of a JSON file
NPY_HEADER = 1 << 12  # maximum bytes of a .npy before its numbers; numpy writes 128


@contextmanager
def published(path: Location) -> Iterator[IO[bytes]]:
    """Open `path` for writing; the file gets its name only when all of it is on disk.

    The data go to a temporary file beside `path`, whose name belongs to this process alone. It is
    fsynced and renamed, and the folder is fsynced: a kill or a power cut at any moment leaves the
    old file or the new one. A remote file is written to a local temporary file, then uploaded in
    one piece. Raise OSError if `path` exists and is not a regular file.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryFile() as file:
            yield file
            file.flush()
            size = file.seek(0, os.SEEK_END)
            path.put(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b"")
        return
    if path.exists() and not path.is_file():  # a folder, a device, a pipe
        raise OSError(errno.EEXIST, "is not a regular file and cannot be replaced; choose another name", str(path))
    partial = aside(path, os.getpid())
    try:
        with _opened(partial) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):  # the folder may not exist
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename = str(path)  # report the name that the user gave
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill; it is renamed to `path` when the block ends, or deleted if it fails.

    Folders that killed processes of this machine left behind are deleted. Raise DataError if `path` already exists.
    """
    if path.exists() or path.is_symlink():
        raise DataError(f"{path} is already there; delete it or choose another --out")
    _remove_abandoned(path)
    partial = aside(path, os.getpid())
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(path: Path) -> None:
    before, after = (re.escape(part) for part in aside(path, "\n").name.split("\n"))
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        match = re.fullmatch(f"{before}([0-9]+){after}", other.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            shutil.rmtree(other, ignore_errors=True)


def aside(path: Path, process: int | str) -> Path:
    """Return the temporary name under which `process` of this machine writes `path`.

    The name holds host and process, since parts of one job may run on several machines that share the folder.
    """
    return path.with_name(f".{path.name}.{socket.gethostname().replace('.', '_')}-{process}{PARTIAL}")


def _opened(path: Path) -> IO[bytes]:
    """Open a temporary file; the fault-injection tests replace it by a file that fails."""
    return path.open("wb")


def remove_partials(directory: Location, names: set[str] | None = None) -> None:
    """Delete temporary files of killed writers; the caller must hold `lock`.

    `names` limits this to the temporary files of those files; None: of all.
    """
    if isinstance(directory, RemotePath):
        return  # remote folders never hold partly written files
    for path in directory.glob(f".*{PARTIAL}"):
        if names is None or path.name[1:].rsplit(".", 2)[0] in names:
            path.unlink(missing_ok=True)


@contextmanager
def lock(directory: Location, part: str = "") -> Iterator[None]:
    """Lock `directory` for this process; raise DataError if another process holds it.

    The system releases the lock however the process ends. With `part`, lock only that part: other
    parts may be written at the same time, but not the whole. A remote folder has no locks: two
    equal jobs write equal, complete objects there, and job.json refuses a different job.
    """
    if isinstance(directory, RemotePath):
        yield
        return
    with (directory / ".lock").open("a") as whole, (directory / f".lock{part and '-' + part}").open("a") as own:
        try:
            fcntl.flock(whole, (fcntl.LOCK_SH if part else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if part:
                fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{directory} is being written by another process; wait for it, or choose another folder") from error
        yield


def file_sha256(path: Location) -> str:
    """Return the hexadecimal SHA-256 of a file; raise OSError if it is not a regular file."""
    if isinstance(path, RemotePath):
        digest = hashlib.sha256()
        with path.open_random() as file:
            while block := file.read(1 << 24):
                digest.update(block)
        return digest.hexdigest()
    if path.exists() and not path.is_file():  # a device or a pipe would never end
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_array(path: Location, array: Any) -> None:  # noqa: ANN401  (a numpy array)
    """Publish a numpy array as .npy. The module does not import numpy at the top: `alexprep --help` would wait for it."""
    from numpy import save

    buffer = io.BytesIO()
    save(buffer, array, allow_pickle=False)
    with published(path) as file:  # if numpy wrote to the file, it would hide why a write failed
        file.write(buffer.getbuffer())


def read_array(path: Location, most_bytes: int) -> Any:  # noqa: ANN401  (as above)
    """Return the numpy array in a .npy file, without pickle.

    Raise ValueError if it is not a .npy file, DataError if it has more than `most_bytes` of
    numbers, OSError if it cannot be read.
    """
    from numpy import load

    data = read_file(path, most_bytes + NPY_HEADER)
    try:
        return load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header makes numpy raise any error of Python's parser
        raise ValueError(f"not a .npy file: {type(error).__name__}: {error}") from error


def write_json(path: Location, value: Any) -> None:  # noqa: ANN401  (JSON is anything)
    """Publish `value` as indented JSON with a final newline."""
    with published(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Location, limit: int = MOST_JSON) -> Any:  # noqa: ANN401  (JSON is anything)
    """Return the JSON in `path` (at most `limit` bytes); raise DataError if it cannot be read."""
    try:
        return json.loads(read_file(path, limit))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); restore it, or delete it and run the command that wrote it again") from error
