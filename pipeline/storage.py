"""Files that are there whole or not at all, one producer to a folder, and JSON from strangers.

In:  bytes on their way to a name.    Out: a file of that name, complete, or none.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import DataError

PARTIAL = ".partial"


@contextmanager
def published(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing; the file gets its name only when all of it is on disk.

    Written aside under a name of this process alone, fsynced, renamed, and the folder fsynced: a kill or a power cut at
    any moment leaves the old file or the new one.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_partials(directory: Path) -> None:
    """Delete what killed writers left behind; call it under `lock`."""
    for path in directory.glob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


@contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process, or raise DataError; the system lets go of it however the process ends."""
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{directory} is being written by another process; wait for it, or choose another folder") from error
        yield


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  (JSON is anything)
    """Publish `value` as indented JSON with a final newline."""
    with published(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, limit: int = 1 << 28) -> Any:  # noqa: ANN401  (JSON is anything)
    """Return the JSON in `path` (at most `limit` bytes); DataError if it cannot be read as such."""
    try:
        if path.stat().st_size > limit:
            raise DataError(f"{path} is larger than {limit} bytes: not a file of ours")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); restore it, or delete it and run the command that wrote it again") from error
