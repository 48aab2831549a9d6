"""Who makes the shards: processes of this machine, or a Ray or Dask cluster, behind one interface.

`submit(task)` returns a concurrent.futures.Future of what the shard left out; `done` and `bad` count source images so far.
"""

import contextlib
import os
import signal
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ..config import ShardConfig
from ..errors import DataError, UndecodableImage
from ..imaging.codec import use_one_thread
from ..sources import Place, Reader
from . import process_pool
from .shard_task import ProgressCallbacks, Quarantined, ShardTask, make_record, make_shard


@runtime_checkable
class Engine(Protocol):
    """Runs shard tasks somewhere."""

    width: int  # tasks at a time

    def submit(self, task: ShardTask) -> Future[list[Quarantined]]:
        """Make a shard; the result is what it left out."""

    def progress(self) -> tuple[int, int]:
        """Return (source images done, unusable ones among them) since the start."""

    def stop(self) -> None:
        """Ask running tasks to return at the next image, publishing nothing."""

    def close(self) -> None:
        """Stop, and wait until nothing of it is left."""


class Workers:
    """Processes of this machine."""

    def __init__(self, workers: int = 0) -> None:
        """Prepare that many (0: one a CPU this process may use); they start with the first task."""
        self.width = workers or len(os.sched_getaffinity(0))
        context = process_pool.context()
        self._done, self._bad, self._stop = context.Value("q", 0), context.Value("q", 0), context.Event()
        self._taken = context.Value("q", 0)  # places in `_current` that a process has taken
        self._current = context.Array("q", [-1] * self.width, lock=False)  # number of the image that each process has in hand
        shared = (self._done, self._bad, self._stop, self._taken, self._current)
        self._executor = ProcessPoolExecutor(self.width, mp_context=context, initializer=_start_worker, initargs=shared)

    def submit(self, task: ShardTask) -> Future[list[Quarantined]]:
        """Make a shard; the result is what it left out."""
        return self._executor.submit(_work, task)

    def progress(self) -> tuple[int, int]:
        """Return (source images done, unusable ones among them)."""
        return self._done.value, self._bad.value

    def in_hand(self) -> list[int]:
        """Return the numbers of the images that were being worked on; after a crash, one of them may be the reason."""
        return sorted(number for number in self._current if number >= 0)

    def stop(self) -> None:
        """Ask running tasks to return at the next image."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait until every process is gone."""
        self.stop()
        self._executor.shutdown(wait=True, cancel_futures=True)


_shared: Any = None  # of a worker process: (done, bad, stop, taken, current)
_place = 0  # of a worker process: its place in `current`


def _start_worker(*shared: Any) -> None:  # noqa: ANN401  (synchronised values have no public type)
    global _shared, _place  # noqa: PLW0603  (an executor's initializer has no other way to hand values to its tasks)
    _shared = shared
    with shared[3].get_lock():
        _place = shared[3].value
        shared[3].value += 1
    process_pool.settle()


def _work(task: ShardTask) -> list[Quarantined]:
    done, bad, stop, _, current = _shared

    def begin(number: int) -> None:
        current[_place] = number

    def end(good: bool) -> bool:  # noqa: FBT001  (a callback of one value)
        current[_place] = -1
        with done.get_lock():
            done.value += 1
            bad.value += not good
        return not stop.is_set()

    return make_shard(task, ProgressCallbacks(begin, end))


def crashes_alone(reader: Reader, place: Place, config: ShardConfig) -> str | None:
    """Decode one image in a process of its own; return the signal that killed it, None if it lives.

    SIGKILL is not taken for the image's fault: that is how the system ends a process when memory is short.
    """
    process = process_pool.context().Process(target=_try_alone, args=(reader, place, config))
    process.start()
    process.join()
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 and -code != signal.SIGKILL else None


def _try_alone(reader: Reader, place: Place, config: ShardConfig) -> None:
    process_pool.settle()
    try:
        make_record(reader, b"", 0, place, config)
    except (UndecodableImage, OSError):
        return


class _Cluster:
    """What Ray and Dask have in common: progress is known a shard at a time, and running tasks run to their end."""

    width = 1

    def __init__(self) -> None:
        self._done = self._bad = 0
        self._lock = threading.Lock()

    def progress(self) -> tuple[int, int]:
        """Return (source images done, unusable ones among them)."""
        return self._done, self._bad

    def stop(self) -> None:
        """Nothing: what runs there finishes its shard."""

    def _counted(self, future: Future[list[Quarantined]], images: int) -> Future[list[Quarantined]]:
        def count(ended: Future[list[Quarantined]]) -> None:
            if not ended.cancelled() and ended.exception() is None:
                with self._lock:
                    self._done += images
                    self._bad += len(ended.result())

        future.add_done_callback(count)
        return future


class RayEngine(_Cluster):
    """Ray tasks; each is retried three times when its worker dies."""

    def __init__(self, workers: int = 0, cluster: str | None = None) -> None:
        """Join the cluster at `cluster` ("auto", host:port, ray://host:port), or start one here with `workers` CPUs."""
        super().__init__()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing phones home
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its default hides the GPUs of tasks that ask for none, and warns of it
        self._ray = _imported("ray")
        self._stdout = contextlib.redirect_stdout(sys.stderr)  # Ray prints of dead workers where the result should be alone
        self._stdout.__enter__()
        cpus = None if cluster else workers or len(os.sched_getaffinity(0))
        with contextlib.chdir(Path(os.__file__).parent):  # Ray puts the current folder into its workers' paths: one that is there anyway
            self._ray.init(address=cluster or "local", num_cpus=cpus, include_dashboard=False if not cluster else None, log_to_driver=False)
        self.width = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._make = self._ray.remote(max_retries=3, num_cpus=1)(_make_on_cluster)

    def submit(self, task: ShardTask) -> Future[list[Quarantined]]:
        """Make a shard on the cluster."""
        return self._counted(self._make.remote(task, str(Path.cwd())).future(), len(task))

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()
        self._stdout.__exit__(None, None, None)


class DaskEngine(_Cluster):
    """Dask's executor; each task is retried three times when its worker dies."""

    def __init__(self, workers: int = 0, cluster: str | None = None) -> None:
        """Join the scheduler at `cluster` (tcp://host:8786), or start processes here."""
        super().__init__()
        distributed = _imported("distributed")
        local = {"n_workers": workers or len(os.sched_getaffinity(0)), "threads_per_worker": 1, "dashboard_address": None, "processes": True}
        self._client = distributed.Client(cluster) if cluster else distributed.Client(**local)
        self.width = max(1, sum(self._client.nthreads().values()))
        self._executor = self._client.get_executor(retries=3, pure=False)

    def submit(self, task: ShardTask) -> Future[list[Quarantined]]:
        """Make a shard on the cluster."""
        return self._counted(self._executor.submit(_make_on_cluster, task), len(task))

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._executor.shutdown(wait=False)
        self._client.shutdown() if self._client.cluster is not None else self._client.close()


def _make_on_cluster(task: ShardTask, folder: str | None = None) -> list[Quarantined]:
    if folder is not None:
        with contextlib.suppress(OSError):  # on another machine it may not be there, and then no relative path means anything
            os.chdir(folder)
    use_one_thread()
    return make_shard(task)


def _imported(name: str) -> Any:  # noqa: ANN401  (a module)
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        extra = "dask" if name == "distributed" else name
        raise DataError(f"--engine {extra} needs {name}: pip install 'alexprep[{extra}]'") from error


def worker_died(error: BaseException) -> bool:
    """Tell the errors that mean: a process that made a shard is gone."""
    names = {"WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "RaySystemError", "KilledWorker"}
    return isinstance(error, BrokenProcessPool) or type(error).__name__ in names
