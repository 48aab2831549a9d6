"""Handle Ctrl-C, so that it never prints a traceback.

The handler is installed before anything else is imported.
"""

from __future__ import annotations

import os
import sys

# `_signal` is built in; importing `signal` would take 10 ms first
from _signal import ITIMER_REAL, SIGALRM, SIGINT, default_int_handler, getsignal, setitimer, signal  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130  # exit code: 128 plus the number of SIGINT
_came = False


def interrupted() -> bool:
    """Return whether Ctrl-C came. An import that it breaks off may end in any exception."""
    return _came


def take_over() -> None:
    """Install the Ctrl-C handler, unless SIGINT is ignored, as in background jobs of a script."""
    if getsignal(SIGINT) is default_int_handler:
        sys.unraisablehook = _interrupt_later
        signal(SIGINT, _interrupt)


def give_up() -> None:
    """Make Ctrl-C end the process at once. Nothing is left to interrupt, and no exception may be raised during interpreter shutdown."""
    if getsignal(SIGINT) is _interrupt:
        signal(SIGINT, lambda *_: os._exit(INTERRUPTED))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; a second Ctrl-C ends the process at once."""
    global _came  # noqa: PLW0603  (a signal handler has no other way to tell)
    if _came:
        os._exit(INTERRUPTED)
    _came = True
    raise KeyboardInterrupt


def _interrupt_later(what: sys.UnraisableHookArgs) -> None:
    """Interrupt again after Python discarded a KeyboardInterrupt.

    That happens when it is raised in a callback that lets no exception out, such as the callback of an import's lock.
    """
    global _came  # noqa: PLW0603  (as above)
    if what.exc_type is KeyboardInterrupt:
        _came = False
        signal(SIGALRM, _interrupt)  # a signal sent at once would be handled in this same callback
        setitimer(ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(what)
