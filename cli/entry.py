"""Start `alexprep` and `alextrain`.

No process of these programs imports modules from the working directory.
"""

from __future__ import annotations

import os
import sys

from .interrupts import INTERRUPTED, give_up, interrupted, take_over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def alexprep() -> NoReturn:
    """Run `alexprep`."""
    _run("alexprep")


def alextrain() -> NoReturn:
    """Run `alextrain`."""
    _run("alextrain")


def _run(program: str) -> NoReturn:
    try:
        take_over()
        # workers start as `python -c`, which would search the working directory for modules first
        os.environ.setdefault("PYTHONSAFEPATH", "1")
        if program == "alexprep":
            from .alexprep import main
        else:
            from .alextrain import main
        main(prog_name=program)
    except BaseException as error:
        if isinstance(error, SystemExit) or not interrupted():
            raise
    finally:
        give_up()
    sys.exit(INTERRUPTED if interrupted() else 0)
