"""Silence tracebacks of the fork server; imported by that server and nowhere else.

The process that uses the server reports what ended it.
"""

import sys
from types import TracebackType


def _hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    # OSError and EOFError: a limit of files or processes was reached, or the other side is gone.
    if not issubclass(kind, OSError | EOFError):
        sys.__excepthook__(kind, error, where)


sys.excepthook = _hook
