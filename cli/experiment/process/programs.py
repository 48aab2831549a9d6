"""The programs of this project, started as other processes."""

import sys


def again(program: str) -> list[str]:
    """Return the command that starts `program` ("alexprep" or "alextrain") as another process of the same interpreter."""
    return [sys.executable, "-P", "-c", f"from alexprep.cli.entry import {program}; {program}()"]
