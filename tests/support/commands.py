"""Our commands as processes."""

import os
import subprocess
import sys
from pathlib import Path

TINY = ("--width", "0.05", "--batch-size", "12", "--crop", "64", "--set", "log_steps=1", "--set", "eval_batch_size=8")


def command(*arguments, cwd=None, env=None, timeout=280):
    """Run one of our commands as its own process; text in, text out."""
    program, *rest = map(str, arguments)
    return subprocess.run(
        [Path(sys.executable).parent / program, *rest], capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=timeout
    )


def children_of(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def workers_of(pid):
    """The workers of a command: forked from a server that is its child."""
    return [worker for child in children_of(pid) for worker in children_of(child)]
