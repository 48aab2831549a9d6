"""Where worker processes come from: forked from a server that has imported what they need, and has no threads.

Forking the caller itself would copy the locks of its threads; a new interpreter for each worker would import everything each time.
"""

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_NEEDED = ["__main__", "alexprep.pipeline.workers"]  # the first because every worker looks at it


def context() -> ForkServerContext:
    """Return multiprocessing's context for workers."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # they inherit it: one of many needs no threads of its own
    return multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Start the server, so that it imports while the caller looks at the source; for a program of our own, since it is one a process."""
    context().set_forkserver_preload(_NEEDED)
    forkserver.ensure_running()
