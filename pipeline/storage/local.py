"""Read a local file of limited size."""

import os
import stat
from pathlib import Path

from ..errors import DataError


def read_local(path: Path, limit: int) -> bytes:
    """Return the content of a file of at most `limit` bytes.

    Raise DataError for a larger file, and for anything but a regular file (a device or a pipe would
    never end); raise OSError if it cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a regular file")
        size, parts = status.st_size, list[bytes]()
        # The file may grow while it is read.
        while size <= limit and (part := os.read(file, min(limit + 1, 1 << 24))):
            parts.append(part)
            size = max(size, sum(map(len, parts)))
        if size > limit:
            raise DataError(f"{path} has {size:,} bytes, more than {limit:,}: check that it is the right file")
        return b"".join(parts)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(file)
