"""Where worker processes come from: forked from a server that has imported what they need, and has no threads.

Forking the caller itself would copy the locks of its threads; a new interpreter for each worker would import everything each time.
"""

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_NEEDED = [
    "alexprep.pipeline.preparation.quiet_forkserver",
    "__main__",
    "alexprep.pipeline.preparation.executors",
]  # the second because every worker looks at it


def context() -> ForkServerContext:
    """Return multiprocessing's context for workers."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # they inherit it: one of many needs no threads of its own
    with _safe_path():
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


@contextmanager
def _safe_path() -> Iterator[None]:
    """Have an interpreter that is started now not look for modules in the working directory first, as `python -c` does.

    Only now: the variable is the caller's to set for programs of its own.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def prepare() -> None:
    """Start the server, so that it imports while the caller looks at the source; for a program of our own, since it is one a process."""
    forkserver.set_forkserver_preload(_NEEDED)
    context()


def settle() -> None:
    """Make this process, just started, a worker that ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    gc.freeze()  # the imported modules stay: collecting among them took a thirtieth of the time
    threading.Thread(target=_die_with_parent, daemon=True).start()
    from ..imaging.codec import use_one_thread  # heavy, and `prepare` is called before anything else

    use_one_thread()


def _die_with_parent() -> None:
    """A parent killed with -9 closes nothing: without this, workers would wait for their next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
