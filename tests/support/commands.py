"""Our commands: as processes of their own, or in this one."""

import os
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

TINY = ("--width", "0.05", "--batch-size", "12", "--crop", "64", "--set", "log_steps=1", "--set", "eval_batch_size=8")


def command(*arguments, cwd=None, env=None, timeout=280):
    """Run one of our commands as its own process; text in, text out."""
    program, *rest = map(str, arguments)
    return subprocess.run(
        [Path(sys.executable).parent / program, *rest], capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=timeout
    )


def called(program, *arguments, cwd=None, env=None):
    """Run one of our commands in this process, without the seconds that an interpreter and torch take to start; text in, text out.

    For what a command says and writes. Signals, ranks, and what is set once in a process want `command`. An exception that the command
    does not turn into a message is raised here.
    """
    if program == "alexprep":
        from alexprep.cli.alexprep import main
    else:
        from alexprep.cli.alextrain import main
    before = set(sys.modules)
    with patch.dict(os.environ, {name: str(value) for name, value in (env or {}).items()}), chdir(cwd or "."):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name=program, catch_exceptions=False)
    for name in set(sys.modules) - before:  # a network of the user's: the next working directory has another of that name
        if cwd is not None and Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(Path(cwd).resolve()):
            del sys.modules[name]
    return subprocess.CompletedProcess([program, *map(str, arguments)], done.exit_code, done.stdout, done.stderr)


def begun(program, *arguments, **options):
    """One of our commands as a process that is waited for later."""
    command = [Path(sys.executable).parent / program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def children_of(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def workers_of(pid):
    """The workers of a command: forked from a server that is its child."""
    return [worker for child in children_of(pid) for worker in children_of(child)]
