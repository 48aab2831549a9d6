"""Ctrl-C: taken over before anything else is imported, so that it prints no traceback from the first moment on."""

from __future__ import annotations

import os
import sys
from _signal import ITIMER_REAL, SIGALRM, SIGINT, default_int_handler, getsignal, setitimer, signal  # type: ignore[import-not-found]  # built in: `signal` would take 10 ms first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130  # exit code: 128 and the number of SIGINT
_came = False


def interrupted() -> bool:
    """Tell whether Ctrl-C came: an import that it breaks off may end in any exception."""
    return _came


def take_over() -> None:
    """Handle Ctrl-C from now on, unless it is ignored, as in the background of a script."""
    if getsignal(SIGINT) is default_int_handler:
        sys.unraisablehook = _interrupt_later
        signal(SIGINT, _interrupt)


def give_up() -> None:
    """End the process at once at Ctrl-C from now on: nothing is left to be interrupted, and no exception may reach the interpreter's own end."""
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
    """Interrupt once more where Python could not: it came into a callback, of an import's lock for example, which lets no exception out."""
    global _came  # noqa: PLW0603  (as above)
    if what.exc_type is KeyboardInterrupt:
        _came = False
        signal(SIGALRM, _interrupt)  # a signal of now would be handled right here
        setitimer(ITIMER_REAL, 0.01)
    else:
        sys.__unraisablehook__(what)
