"""A watch over hangs."""

import faulthandler
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class Watchdog:
    """Ends the process with every thread's stack when nothing moves for some time: a collective whose other end hangs, a dead disk."""

    def __init__(self, seconds: float) -> None:
        """Take the patience; 0: for ever."""
        self._seconds = seconds

    def alive(self) -> None:
        """Start counting anew."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=sys.stderr)

    def rest(self) -> None:
        """Stop counting."""
        faulthandler.cancel_dump_traceback_later()

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield `batches`; each of them is a sign of life."""
        for batch in batches:
            self.alive()
            yield batch
