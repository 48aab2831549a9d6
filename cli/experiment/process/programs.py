"""Commands that start the programs of this project as other processes."""

import sys


def again(program: str) -> list[str]:
    """Return the command that starts "alexprep" or "alextrain" with the same interpreter."""
    return [sys.executable, "-P", "-c", f"from alexprep.cli.entry import {program}; {program}()"]
