"""Run the trials of a grid in processes of their own, several at a time."""

import os
import queue
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from ..process.programs import again
from ..process.signals import SIGNALS, STOPPED
from .grid import Trial


@dataclass(frozen=True)
class TrialEnded:
    """A trial has ended."""

    label: str
    failure: str = ""  # reason of a failure, and the path of its log


@dataclass
class AblationRunner:
    """Runs trials on the shards in `data`."""

    data: Path
    at_once: int = 1
    gpus: int = 0  # GPUs of this machine, which the trials take in turn
    stopped: str = ""  # name of the signal that asked to stop
    failed: dict[str, str] = field(default_factory=dict)  # label -> reason
    _running: set["subprocess.Popen[bytes]"] = field(default_factory=set)

    def run(self, todo: Sequence[Trial]) -> Iterator[TrialEnded]:
        """Run the trials and yield each as it ends. A failure is noted in `failed`, and the others continue. After a signal, none is started."""
        places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(self.at_once):
            places.put(place)
        with self._listening(), tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(self.at_once) as pool:
            futures: dict[Future[None], Trial] = {
                pool.submit(self._run, trial, places, Path(folder) / str(number)): trial for number, trial in enumerate(todo)
            }
            for future in as_completed(futures):
                future.result()
                label = futures[future].label
                yield TrialEnded(label, self.failed.get(label, ""))

    def _run(self, trial: Trial, places: "queue.SimpleQueue[int]", scratch: Path) -> None:
        if self.stopped:
            return
        place = places.get()
        try:
            code = self._start(trial, place, scratch)
        finally:
            places.put(place)
        if not self.stopped and not (code == 0 and trial.finished()):
            log = _log(trial)
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
            self.failed[trial.label] = f"{last[0]} ({log})"

    def _start(self, trial: Trial, place: int, scratch: Path) -> int:
        """Run a trial to its end; return the exit code."""
        directory = trial.folder.directory
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
        config = scratch / "config.toml"
        config.write_text(trial.settings.to_toml())
        begun = ["--resume"] if trial.folder.begun() else ["--config", str(config)]
        command = [*again("alextrain"), "run", str(self.data)]
        threads = str(max(1, len(os.sched_getaffinity(0)) // self.at_once))
        # the loader shares the CPUs among LOCAL_WORLD_SIZE; STOPPED makes a run end when this
        # process is killed
        environment = os.environ | {"OMP_NUM_THREADS": threads, "LOCAL_WORLD_SIZE": str(self.at_once), STOPPED: str(scratch / "stopped")}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _visible(place % self.gpus)
        command += ["--out", str(directory), *begun]
        # in sessions of their own: Ctrl-C reaches this process only, which stops them with a
        # checkpoint
        with (
            _log(trial).open("ab") as output,
            subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True) as process,
        ):
            self._running.add(process)
            if self.stopped:  # a signal came after the check in `_run`
                process.send_signal(signal.SIGTERM)
            code = process.wait()
            self._running.discard(process)
        return code

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Stop the runs with a checkpoint when a signal asks this process to stop."""

        def take(number: int, _frame: FrameType | None) -> None:
            self.stopped = signal.Signals(number).name
            for process in list(self._running):
                process.send_signal(signal.SIGTERM)

        before = {number: signal.signal(number, take) for number in (*SIGNALS, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _log(trial: Trial) -> Path:
    return trial.folder.directory.with_suffix(".log")


def _visible(number: int) -> str:
    """Return GPU `number` of those that this process may use, as CUDA_VISIBLE_DEVICES names it."""
    given = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return given[number] if number < len(given) else str(number)
