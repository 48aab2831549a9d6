"""Write the events and the state of a run: metrics.jsonl, loggers, checkpoints, the receipts of a step that diverged. Only rank 0 writes."""

import json
import shlex
from pathlib import Path
from typing import Any

import torch
from alexprep.model.events import RunEvent
from alexprep.model.training.trainer import NotFinite
from alexprep.pipeline import Loader, Manifest, Stats
from alexprep.pipeline.inspection.replay import receipt
from alexprep.pipeline.storage.files import published

from .checkpoint import Saver, first_kernels
from .config import RunConfig
from .events import Notice
from .process.loggers import Loggers
from .run_folder import RunFolder


class MetricsSink:
    """Writes events to metrics.jsonl and to the loggers of the run."""

    def __init__(self, folder: RunFolder, settings: RunConfig) -> None:
        """Open the loggers, new or of the run that is resumed."""
        self._folder = folder
        self._loggers = Loggers(settings.run.loggers, folder.directory, settings.flat())

    def write(self, event: RunEvent) -> Notice | None:
        """Write an event; return a warning on a write error: a full disk does not stop a run."""
        try:
            self._folder.log(event)
            self._loggers.log(event.row())
        except OSError as error:
            place = error.filename or self._folder.directory
            return Notice(f"a row of step {event.step} was not written to {place}: {error.strerror}", warning=True)
        return None

    def flush(self) -> None:
        """Flush the loggers."""
        self._loggers.flush()

    def close(self) -> None:
        """Flush and close the loggers."""
        self._loggers.close()


class CheckpointSink:
    """Writes checkpoints in a thread while training goes on."""

    def __init__(self, folder: RunFolder, settings: RunConfig, manifest: Manifest, notices: list[Notice]) -> None:
        """Prepare the thread; a write error becomes a warning in `notices`."""
        self._folder, self._settings, self._manifest = folder, settings, manifest
        self._saver = Saver(lambda text: notices.append(Notice(text, warning=True)))

    def submit(self, name: str, state: dict[str, Any], stats: Stats) -> None:
        """Write <name>.pt after the previous checkpoint. `state` is copied and may change."""
        self._saver.wait()  # at most two copies of the state exist
        kept = _copied(state)
        self._saver.submit(lambda: self.write(name, kept, stats))

    def write(self, name: str, state: dict[str, Any], stats: Stats) -> None:
        """Write <name>.pt, and the first layer's kernels. With last.pt, keep also the older checkpoints that the setting `keep` asks for."""
        self._folder.save(name, state, self._settings, self._manifest.classes, stats, self._manifest.plan)
        self._folder.keep_kernels(state["step"], first_kernels(state["model"] | state.get("averages", {})))
        if name == "last" and self._settings.run.keep > 1:
            self._folder.keep(state["step"], self._settings.run.keep)

    def settle(self) -> None:
        """Wait for the checkpoint that is being written; a write error is a warning."""
        self._saver.wait()

    def close(self) -> None:
        """Wait; raise DataError if the last checkpoint could not be written."""
        self._saver.close()


def write_receipts(error: NotFinite, folder: Path, data: Path, loader: Loader, stats: Stats) -> str:
    """Write the receipts of the step's whole batch to diverged.jsonl, beside diverged.pt. Return the error message, with what to do next."""
    config, path = loader.config, folder / "diverged.jsonl"
    with published(path) as file:
        for index in range(config.batch_size):
            file.write(json.dumps(receipt(loader.records, config, stats, error.step, index).to_json()).encode() + b"\n")
    drawn = shlex.join(map(str, ["alexprep", "replay", data, "--run", folder, "--step", error.step, "--index", 0]))
    return f"{error}. The state before that step is in {path.with_suffix('.pt')}, its batch in {path}; {drawn} draws a sample of it"


def _copied(state: Any) -> Any:  # noqa: ANN401  (tensors and plain values)
    """Return a copy in CPU memory."""
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, torch.Tensor) else state
