"""A watch over hangs."""

import faulthandler
import sys
from collections.abc import Iterable, Iterator
from typing import Any

STDERR = 2  # file descriptor: a notebook's sys.stderr has none


class Watchdog:
    """Ends the process with every thread's stack when nothing moves for some time: a collective whose other end hangs, a dead disk.

    It watches between `start` and `rest`.
    """

    def __init__(self, seconds: float) -> None:
        """Take the patience; 0: for ever."""
        self._seconds, self._watches = seconds, False

    def start(self) -> None:
        """Watch from now on."""
        self._watches = bool(self._seconds)
        self.alive()

    def alive(self) -> None:
        """Start counting anew."""
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
