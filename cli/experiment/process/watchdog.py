"""End a process that hangs."""

import faulthandler
import sys
from collections.abc import Iterable, Iterator
from typing import Any

STDERR = 2  # file descriptor, for a notebook, whose sys.stderr has none


class Watchdog:
    """Prints every thread's stack and ends the process after some time without a sign of life.

    Causes are a collective whose other end hangs, or a dead disk. It watches between `start` and
    `rest`.
    """

    def __init__(self, seconds: float) -> None:
        """Take the timeout in seconds; 0: none."""
        self._seconds, self._watches = seconds, False

    def start(self) -> None:
        """Start watching."""
        self._watches = bool(self._seconds)
        self.alive()

    def alive(self) -> None:
        """Restart the timeout."""
        if self._watches:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=_descriptor())

    def rest(self) -> None:
        """Stop watching."""
        self._watches = False
        faulthandler.cancel_dump_traceback_later()

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield `batches`; each of them is a sign of life."""
        for batch in batches:
            self.alive()
            yield batch


def _descriptor() -> int:
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return STDERR
