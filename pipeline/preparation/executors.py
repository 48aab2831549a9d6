"""Run shard tasks: processes of this machine, or a Ray or Dask cluster, behind one interface.

`submit(task)` returns a concurrent.futures.Future of the images that the shard left out;
`progress()` counts the source images so far.
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
    """Runs shard tasks, on this machine or on a cluster."""

    width: int  # number of tasks that run at a time

    def submit(self, task: ShardTask) -> Future[list[Quarantined]]:
        """Start making a shard; the future's result is the images that it left out."""

    def progress(self) -> tuple[int, int]:
        """Return (source images done, unusable ones among them) since the start."""

    def stop(self) -> None:
        """Ask running tasks to return at the next image without publishing anything."""

    def close(self) -> None:
        """Stop the engine, and release everything that it uses."""


class Workers:
    """Runs tasks in processes of this machine."""

    def __init__(self, workers: int = 0) -> None:
        """Prepare `workers` processes (0: one per usable CPU); they start with the first task."""
        self.width = workers or len(os.sched_getaffinity(0))
        context = process_pool.context()
        self._done, self._bad, self._stop = context.Value("q", 0), context.Value("q", 0), context.Event()
        self._taken = context.Value("q", 0)  # slots of `_current` that processes have taken
        # Number of the image that each process is working on; -1: none.
        self._current = context.Array("q", [-1] * self.width, lock=False)
        shared = (self._done, self._bad, self._stop, self._taken, self._current)
        self._executor = ProcessPoolExecutor(self.width, mp_context=context, initializer=_start_worker, initargs=shared)

    def submit(self, task: ShardTask) -> Future[list[Quarantined]]:
        """Start making a shard; the future's result is the images that it left out."""
        return self._executor.submit(_work, task)

    def progress(self) -> tuple[int, int]:
        """Return (source images done, unusable ones among them)."""
        return self._done.value, self._bad.value

    def in_hand(self) -> list[int]:
        """Return the numbers of the images in progress; one of them may have caused a crash."""
        return sorted(number for number in self._current if number >= 0)

    def stop(self) -> None:
        """Ask running tasks to return at the next image."""
        self._stop.set()

    def close(self) -> None:
        """Stop, and wait until every process is gone."""
        self.stop()
        self._executor.shutdown(wait=True, cancel_futures=True)


_shared: Any = None  # in a worker process: (done, bad, stop, taken, current)
_place = 0  # in a worker process: its slot in `current`


def _start_worker(*shared: Any) -> None:  # noqa: ANN401  (synchronised values have no public type)
    # An executor's initializer has no other way to hand values to its tasks.
    global _shared, _place  # noqa: PLW0603
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
    """Decode one image in a process of its own; return the signal that killed it, None if none did.

    SIGKILL does not count, since the system ends processes that way when memory is short.
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
    """What Ray and Dask have in common.

    Progress is counted per finished shard, and running tasks run to their end.
    """

    width = 1

    def __init__(self) -> None:
        self._done = self._bad = 0
        self._lock = threading.Lock()

    def progress(self) -> tuple[int, int]:
        """Return (source images done, unusable ones among them)."""
        return self._done, self._bad

    def stop(self) -> None:
        """Do nothing: running tasks finish their shards."""

    def _counted(self, future: Future[list[Quarantined]], images: int) -> Future[list[Quarantined]]:
        def count(ended: Future[list[Quarantined]]) -> None:
            if not ended.cancelled() and ended.exception() is None:
                with self._lock:
                    self._done += images
                    self._bad += len(ended.result())

        future.add_done_callback(count)
        return future


class RayEngine(_Cluster):
    """Runs tasks on Ray; a task is retried up to three times when its worker dies."""

    def __init__(self, workers: int = 0, cluster: str | None = None) -> None:
        """Join the cluster at `cluster`, or start a local one with `workers` CPUs. `cluster` is "auto", host:port or ray://host:port."""
        super().__init__()
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no telemetry
        # Ray's default hides the GPUs from tasks that ask for none, and warns about it.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray = _imported("ray")
        # Ray prints messages about dead workers to stdout, which is reserved for the result.
        self._stdout = contextlib.redirect_stdout(sys.stderr)
        self._stdout.__enter__()
        cpus = None if cluster else workers or len(os.sched_getaffinity(0))
        # Ray adds the current folder to its workers' module path: make it one that is there anyway.
        with contextlib.chdir(Path(os.__file__).parent):
            self._ray.init(address=cluster or "local", num_cpus=cpus, include_dashboard=False if not cluster else None, log_to_driver=False)
        self.width = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self._make = self._ray.remote(max_retries=3, num_cpus=1)(_make_on_cluster)

    def submit(self, task: ShardTask) -> Future[list[Quarantined]]:
        """Start making a shard on the cluster."""
        return self._counted(self._make.remote(task, str(Path.cwd())).future(), len(task))

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        self._ray.shutdown()
        self._stdout.__exit__(None, None, None)


class DaskEngine(_Cluster):
    """Runs tasks on Dask; a task is retried up to three times when its worker dies."""

    def __init__(self, workers: int = 0, cluster: str | None = None) -> None:
        """Join the scheduler at `cluster` (tcp://host:8786), or start `workers` local processes."""
        super().__init__()
        distributed = _imported("distributed")
        local = {"n_workers": workers or len(os.sched_getaffinity(0)), "threads_per_worker": 1, "dashboard_address": None, "processes": True}
        self._client = distributed.Client(cluster) if cluster else distributed.Client(**local)
        self.width = max(1, sum(self._client.nthreads().values()))
        self._executor = self._client.get_executor(retries=3, pure=False)

    def submit(self, task: ShardTask) -> Future[list[Quarantined]]:
        """Start making a shard on the cluster."""
        return self._counted(self._executor.submit(_make_on_cluster, task), len(task))

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        self._executor.shutdown(wait=False)
        self._client.shutdown() if self._client.cluster is not None else self._client.close()


def _make_on_cluster(task: ShardTask, folder: str | None = None) -> list[Quarantined]:
    if folder is not None:
        # Another machine may not have the folder; relative paths mean nothing there then.
        with contextlib.suppress(OSError):
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
    """Return whether an error means that a process that made a shard died."""
    names = {"WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "RaySystemError", "KilledWorker"}
    return isinstance(error, BrokenProcessPool) or type(error).__name__ in names
