"""Start worker processes: fork them from a server without threads that has imported their modules.

Forking the caller itself would copy the locks of its threads; a new interpreter for each worker
would import everything each time.
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

# Modules that the server imports; __main__ is one of them because every worker loads it.
_NEEDED = [
    "alexprep.pipeline.preparation.quiet_forkserver",
    "__main__",
    "alexprep.pipeline.preparation.executors",
]


def context() -> ForkServerContext:
    """Return multiprocessing's context for workers."""
    # Workers inherit this: one worker of many needs no threads of its own.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with _safe_path():
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep interpreters started in this block from importing from the working directory.

    `python -c` looks for modules there first. The variable is restored afterwards, since the
    caller may set it for programs of its own.
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
    """Start the server early, while the caller looks at the source. Only for our own programs: a process has only one such server."""
    forkserver.set_forkserver_preload(_NEEDED)
    context()


def settle() -> None:
    """Set up a process that was just started as a worker that ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    gc.freeze()  # imported modules stay: garbage collection of them took 1/30 of the time
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # A heavy import, and `prepare` is called before anything else.
    from ..imaging.codec import use_one_thread

    use_one_thread()


def _die_with_parent() -> None:
    """End this process when its parent has ended. A parent killed with -9 closes nothing: workers would wait for their next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
