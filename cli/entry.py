"""Starts both programs. Ctrl-C prints no traceback from the first moment on, and no process imports from the working directory."""

from __future__ import annotations

import os
import sys
from _signal import ITIMER_REAL, SIGALRM, SIGINT, default_int_handler, getsignal, setitimer, signal  # type: ignore[import-not-found]  # built in: `signal` would take 10 ms first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

INTERRUPTED = 130  # exit code: 128 and the number of SIGINT
_came = False


def interrupted() -> bool:
    """Tell whether Ctrl-C came: an import that it breaks off may end in any exception."""
    return _came


def again(program: str) -> list[str]:
    """Return the command that starts `program` ("alexprep" or "alextrain") as another process of the same interpreter."""
    return [sys.executable, "-P", "-c", f"from alexprep.cli.entry import {program}; {program}()"]


def alexprep() -> NoReturn:
    """Run `alexprep`."""
    _run("alexprep")


def alextrain() -> NoReturn:
    """Run `alextrain`."""
    _run("alextrain")


def _run(program: str) -> NoReturn:
    try:
        if getsignal(SIGINT) is default_int_handler:  # not if it is ignored, as in the background of a script
            sys.unraisablehook = _interrupt_later
            signal(SIGINT, _interrupt)
        os.environ.setdefault("PYTHONSAFEPATH", "1")  # workers start as `python -c`, which would look for modules in the working directory first
        if program == "alexprep":
            from .prep import main
        else:
            from .train import main
        main(prog_name=program)
    except BaseException as error:
        if isinstance(error, SystemExit) or not _came:
            raise
    finally:
        if getsignal(SIGINT) is _interrupt:  # nothing is left to be interrupted: no exception into what ends the interpreter
            signal(SIGINT, lambda *_: os._exit(INTERRUPTED))
    sys.exit(INTERRUPTED if _came else 0)


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
