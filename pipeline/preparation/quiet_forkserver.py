"""Imported by the server that workers are forked from, and nowhere else: what ends it is told by the process that asked it, not by a traceback."""

import sys
from types import TracebackType


def _hook(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    if not issubclass(kind, OSError | EOFError):  # a limit of files or processes was met, or the other side is gone
        sys.__excepthook__(kind, error, where)


sys.excepthook = _hook
