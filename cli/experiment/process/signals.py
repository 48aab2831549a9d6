"""Signals that ask a run to stop, and what a launcher and its ranks tell each other about it."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REQUEUE = 75  # exit code: stopped on demand with a checkpoint, start it again (EX_TEMPFAIL of sysexits.h)
AGAIN = 20  # seconds
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
STOPPED = "ALEXPREP_STOPPED"  # names the file that rank 0 makes when it has stopped as it was asked to
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # torchrun and SLURM (--signal=USR1@60) send these before they kill


class Stop:
    """Remembers that a signal asked to stop; the step under way is finished first. While `at_once`, there is nothing to lose: it ends the process."""

    def __init__(self, announce: Callable[[str], None] = lambda _: None) -> None:
        """Know of none yet; `announce` is told why the process ends, if it does at once."""
        self._announce = announce
        self.name, self._since, self.at_once = "", 0.0, True

    def __call__(self) -> bool:
        """Tell whether one came."""
        return bool(self.name)

    def ask(self, name: str) -> None:
        """Ask for it in the name of something other than a signal."""
        self.name, self._since = name, time.monotonic()

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
                self._announce(f"stopped by {self.name}; the same command continues, with --resume if a step was taken")
                raise SystemExit(REQUEUE)


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
