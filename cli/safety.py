"""What keeps a run from losing a step: checkpoints written beside the training, signals that ask for one, a watch over hangs."""

import ctypes
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alexprep.pipeline.errors import DataError

from .common import say

REQUEUE = 75  # exit code: stopped on demand with a checkpoint, start it again (EX_TEMPFAIL of sysexits.h)
AGAIN = 20  # seconds
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
STOPPED = "ALEXPREP_STOPPED"  # names the file that rank 0 makes when it has stopped as it was asked to
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # torchrun and SLURM (--signal=USR1@60) send these before they kill


class Saver:
    """Writes one checkpoint at a time in a thread of its own, while training goes on.

    What cannot be written (a full disk) is a warning: the checkpoint before it is kept, and the next one is tried when it is due.
    """

    def __init__(self) -> None:
        """Prepare the thread."""
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._error: DataError | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Write when the one before is written."""
        self.wait()
        self._pending = self._pool.submit(write)

    def wait(self) -> None:
        """Wait for what is being written."""
        pending, self._pending, self._error = self._pending, None, None if self._pending is not None else self._error
        try:
            if pending is not None:
                pending.result()
        except DataError as error:
            self._error = error
            say(f"warning: {error}")

    def close(self) -> None:
        """Wait; raise the DataError if the last checkpoint could not be written."""
        self.wait()
        self._pool.shutdown()
        if self._error is not None:
            raise self._error


class Stop:
    """Remembers that a signal asked to stop; the step under way is finished first. While `at_once`, there is nothing to lose: it ends the process."""

    def __init__(self) -> None:
        """Know of none yet."""
        self.name, self._since, self.at_once = "", 0.0, True

    def __call__(self) -> bool:
        """Tell whether one came."""
        return bool(self.name)

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Take the signals. One that comes again soon is the same, from the launcher or the group; a later one ends the process as usual."""
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        try:
            yield self
        finally:
            if not self.name:  # else the process is about to end by itself
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _take(self, number: int, _frame: Any) -> None:  # noqa: ANN401  (a frame)
        if self.name and time.monotonic() - self._since > AGAIN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self.name:
            self.name, self._since = signal.Signals(number).name, time.monotonic()
            if self.at_once:
                tell_launcher()
                say(f"stopped by {self.name}; the same command continues, with --resume if a step was taken")
                raise SystemExit(REQUEUE)


class Watchdog:
    """Ends the process with every thread's stack when nothing moves for some time: a collective whose other end hangs, a dead disk."""

    def __init__(self, seconds: float) -> None:
        """Take the patience; 0: for ever."""
        self._seconds = seconds

    def alive(self) -> None:
        """Start counting anew."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=sys.stderr)

    def rest(self) -> None:
        """Stop counting."""
        faulthandler.cancel_dump_traceback_later()

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield `batches`; each of them is a sign of life."""
        for batch in batches:
            self.alive()
            yield batch


def tell_launcher() -> None:
    """Have our launcher, if it is ours, answer with REQUEUE, and start no rank again."""
    if STOPPED in os.environ:
        Path(os.environ[STOPPED]).touch()


def stopped_before() -> bool:
    """Tell whether the ranks have stopped as they were asked to, and the launcher took it for a failure."""
    return STOPPED in os.environ and Path(os.environ[STOPPED]).exists()


def die_with_parent() -> None:
    """Have the system end this rank, with a checkpoint, when our launcher is killed."""
    if STOPPED in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def restarted() -> bool:
    """Tell whether torchrun may have started the ranks again, after one failed or joined, or SLURM has put the job back into the queue.

    Where ranks come and go, torchrun does not count it: with --max-restarts, a run that has begun is always gone on with.
    """
    return any((value := os.environ.get(name, "")).isdecimal() and int(value) > 0 for name in ("TORCHELASTIC_MAX_RESTARTS", "SLURM_RESTART_COUNT"))
