"""Worker processes of the shard job, and the three numbers they share with it."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from .images import use_one_thread
from .tasks import Bad, ShardTask, make_shard


class Workers:
    """Processes that make shards: `done` and `bad` count source images, `stop` asks for a return at the next one."""

    def __init__(self, workers: int) -> None:
        """Prepare that many; they start with the first task."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the processes inherit it: one of many needs no threads of its own
        context = multiprocessing.get_context("spawn")  # fork would copy threads' locks; spawn is the same everywhere
        self.done, self.bad, self.stop = context.Value("q", 0), context.Value("q", 0), context.Event()
        shared = (self.done, self.bad, self.stop)
        self._executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=shared)

    def submit(self, task: ShardTask) -> Future[list[Bad]]:
        """Make a shard; the result is what it left out."""
        return self._executor.submit(_work, task)

    def close(self) -> None:
        """Stop, and wait until every process is gone."""
        self.stop.set()
        self._executor.shutdown(wait=True, cancel_futures=True)


_shared: Any = None  # of a worker process: (done, bad, stop)


def _start_worker(*shared: Any) -> None:  # noqa: ANN401  (synchronised values have no public type)
    global _shared  # noqa: PLW0603  (an executor's initializer has no other way to hand values to its tasks)
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    use_one_thread()


def _die_with_parent() -> None:
    """A parent killed with -9 closes nothing: without this, workers would wait for their next task for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: ShardTask) -> list[Bad]:
    done, bad, stop = _shared

    def count(good: bool) -> bool:  # noqa: FBT001  (a callback of one value)
        with done.get_lock():
            done.value += 1
            bad.value += not good
        return not stop.is_set()

    return make_shard(task, count)
