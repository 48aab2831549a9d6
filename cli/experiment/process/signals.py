"""Handle signals that ask a run to stop, and share the request between launcher and ranks."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# exit code: stopped on request with a checkpoint, start it again (EX_TEMPFAIL of sysexits.h)
REQUEUE = 75
AGAIN = 20  # seconds within which a second signal counts as the same request
PR_SET_PDEATHSIG = 1  # from linux/prctl.h
# environment variable: path of the file that a rank makes when it has stopped on request
STOPPED = "ALEXPREP_STOPPED"
# signals that torchrun and SLURM (--signal=USR1@60) send before they kill
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """Remembers that a signal asked to stop; the step under way is finished first.

    While `at_once`, no work can be lost, and the signal ends the process.
    """

    def __init__(self, announce: Callable[[str], None] = lambda _: None) -> None:
        """Begin without a signal; `announce` gets the reason if the process ends at once."""
        self._announce = announce
        self.name, self._since, self.at_once = "", 0.0, True

    def __call__(self) -> bool:
        """Return whether a stop was requested."""
        return bool(self.name)

    def ask(self, name: str) -> None:
        """Request a stop without a signal; `name` says who asks."""
        self.name, self._since = name, time.monotonic()

    @contextmanager
    def listening(self) -> Iterator["Stop"]:
        """Handle SIGNALS.

        A second signal within AGAIN seconds is the same request, sent by the launcher or to the
        process group. A later one ends the process as usual.
        """
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        try:
            yield self
        finally:
            if not self.name:  # otherwise the process is about to end
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
    """Make `launch`, if it started this rank, exit with REQUEUE and restart no rank."""
    if STOPPED in os.environ:
        Path(os.environ[STOPPED]).touch()


def stopped_before() -> bool:
    """Return whether the ranks stopped on request, and the launcher took it for a failure."""
    return STOPPED in os.environ and Path(os.environ[STOPPED]).exists()


def die_with_parent() -> None:
    """On Linux, stop this process with a checkpoint when the parent that set STOPPED dies."""
    if STOPPED in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def restarted() -> bool:
    """Return whether torchrun may have restarted the ranks, or SLURM has requeued the job.

    torchrun restarts them after one failed or joined. It does not count restarts when ranks join or
    leave, so with --max-restarts a run that has begun is always resumed.
    """
    return any((value := os.environ.get(name, "")).isdecimal() and int(value) > 0 for name in ("TORCHELASTIC_MAX_RESTARTS", "SLURM_RESTART_COUNT"))
