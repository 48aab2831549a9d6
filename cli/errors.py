"""Turn a command's errors into one message and exit code 1, or 2 for wrong usage."""

import errno
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import click

from .interrupts import INTERRUPTED, interrupted
from .text import say

_EXTRAS = {"cuda12": ("torch", "matplotlib", "jinja2"), "export": ("onnx", "onnxruntime", "onnxscript", "safetensors")}


class Commands(click.Group):
    """Turns errors that a user can act on into `Error: ...` and exit code 1, for every command."""

    interrupted = "run the same command again; it continues where it can"

    def __init__(self, *arguments: Any, package: str, table: Mapping[str, tuple[str, str, str]], **attributes: Any) -> None:  # noqa: ANN401  (click's own)
        """Take the commands of a package: name -> module, function, first line of the help. A module is imported when its command is called."""
        super().__init__(*arguments, **attributes)
        self._package, self._table = package, table

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(self._table)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """Return a command; None if there is none of that name."""
        if name not in self._table:
            return None
        module, function, _ = self._table[name]
        return getattr(import_module(f".{module}", self._package), function)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with the first line of their help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._table[name][2]) for name in sorted(self._table)])

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  (click's own signature)
        """Run the command."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # file names may contain characters that the terminal cannot show
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            self._interrupted(ctx)
        except ModuleNotFoundError as error:
            extra = next((extra for extra, names in _EXTRAS.items() if error.name in names), None)
            if extra is None:
                raise
            raise click.ClickException(
                f"{error.name} is not installed: pip install 'alexprep[{extra}]' installs all that this command needs"
            ) from error
        except BrokenPipeError:
            raise  # the reader closed the pipe; click exits without a message
        except OSError as error:
            if interrupted():
                self._interrupted(ctx)
            raise click.ClickException(_limit(error) or f"{error.filename or 'operating system error'}: {error.strerror or error}") from error
        except Exception as error:
            if interrupted():  # during an import, which may raise another exception
                self._interrupted(ctx)
            rank = os.environ.get("RANK", "0")
            if _peer_failed(error):
                say(f"rank {rank} stops: another rank failed")
                ctx.exit(1)
            if limit := _limit(error):
                raise click.ClickException(limit) from error
            if not _expected(error):
                raise
            raise click.ClickException(f"rank {rank}: {error}" if rank != "0" else str(error)) from error

    def _interrupted(self, ctx: click.Context) -> NoReturn:
        say(f"\ninterrupted; {self.interrupted}")
        ctx.exit(INTERRUPTED)


def _limit(error: BaseException) -> str | None:
    """Return a message if a system limit on files, processes or threads caused the error. None for any other error."""
    cause: BaseException | None = error
    while cause is not None and not _expected(cause):  # errors with a message for users keep it
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.EMFILE, errno.ENFILE):
            return "no more files can be opened (ulimit -n): allow more, or use fewer --workers"
        if (number == errno.EAGAIN and _starts_something(cause)) or (isinstance(cause, RuntimeError) and "can't start new thread" in str(cause)):
            return "no more processes or threads can be started (ulimit -u, or a container's limit of pids): allow more, or use fewer --workers"
        if isinstance(cause, EOFError) and _starts_something(cause):
            return "a worker process could not be started: a limit of the system (ulimit -n, ulimit -u, memory); allow more, or use fewer --workers"
        cause = cause.__cause__ or cause.__context__
    return None


def _starts_something(error: BaseException) -> bool:
    """Return whether an error was raised in Python's code that starts processes."""
    frame = error.__traceback__
    while frame is not None:
        if re.search(r"[/\\](multiprocessing[/\\]|subprocess\.py$)", frame.tb_frame.f_code.co_filename):
            return True
        frame = frame.tb_next
    return False


def _peer_failed(error: Exception) -> bool:
    """Return whether a collective failed because the process at its other end is gone."""
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return "RANK" in os.environ and isinstance(error, RuntimeError) and any(text in str(error) for text in gone)


def _expected(error: BaseException) -> bool:
    """Return whether an error has a message for users; any other is a bug of this project.

    Classes are compared by name, so that the modules that define them need not be imported.
    """
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return bool(names & {"alexprep.pipeline.errors.DataError", "alexprep.model.errors.TrainingError"})


@contextmanager
def wrong_values() -> Iterator[None]:
    """Turn a config's ValueError into a usage error (exit code 2)."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def a_number(_ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Raise BadParameter for nan, which no click range rejects."""
    if value is not None and value != value:  # noqa: PLR0124
        raise click.BadParameter("nan is not a number", param=option)
    return value
