"""Log a run's metrics also to TensorBoard, Weights & Biases or trackio.

Nothing leaves the machine unless the user says so.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from alexprep.pipeline.errors import DataError


class Logger(Protocol):
    """Receives the numbers of the rows of metrics.jsonl."""

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Log numbers by name, such as "step/loss"."""

    def flush(self) -> None:
        """Write buffered numbers."""

    def close(self) -> None:
        """Write buffered numbers and close."""


class TensorBoard:
    """Event files in the run's folder: tensorboard --logdir runs/."""

    def __init__(self, folder: Path, _settings: dict[str, Any]) -> None:
        """Open the log, new or of the run that is resumed."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard")

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Log numbers by name."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write buffered numbers."""
        self._writer.flush()

    def close(self) -> None:
        """Write buffered numbers and close."""
        self._writer.close()


class Wandb:
    """Weights & Biases; offline, in the run's folder, unless WANDB_MODE says otherwise.

    `wandb sync` sends it later.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Open the log, new or of the run that is resumed."""
        import wandb  # type: ignore[import-not-found]  # installed by the user only

        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project="alexprep", name=folder.name, dir=str(folder), config=settings, mode=mode)

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Log numbers by name."""
        self._run.log(numbers, step=step)

    def flush(self) -> None:
        """Do nothing: the package writes by itself."""

    def close(self) -> None:
        """Write buffered numbers and close."""
        self._run.finish()


class Trackio:
    """trackio; its database is on this machine (TRACKIO_DIR), and `trackio show` shows it."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Open the log, new or of the run that is resumed."""
        import trackio  # type: ignore[import-not-found]  # installed by the user only

        self._trackio = trackio
        trackio.init(project="alexprep", name=folder.name, config=settings)

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Log numbers by name."""
        self._trackio.log(numbers, step=step)

    def flush(self) -> None:
        """Do nothing: the package writes by itself."""

    def close(self) -> None:
        """Write buffered numbers and close."""
        self._trackio.finish()


LOGGERS: dict[str, Callable[[Path, dict[str, Any]], Logger]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def names_of(names: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in names.split(",") if name.strip()]


def check_installed(names: str) -> None:
    """Raise DataError if a logger's package is not installed."""
    for name in names_of(names):
        if find_spec(name) is None:
            raise DataError(f"{name} is not installed: pip install {name}, or leave it out of loggers")


class Loggers:
    """All loggers of a run."""

    def __init__(self, names: str, folder: Path, settings: dict[str, Any]) -> None:
        """Open the loggers in the comma-separated list `names`."""
        self._loggers = [LOGGERS[name](folder, settings) for name in names_of(names)]

    def log(self, row: dict[str, Any]) -> None:
        """Log the numbers of a row of metrics.jsonl; "start" rows are skipped."""
        event = row["event"]
        numbers = {f"{event}/{name}": value for name, value in row.items() if isinstance(value, int | float) and name not in ("event", "step")}
        if event != "start":
            for logger in self._loggers:
                logger.log(numbers, row["step"])

    def flush(self) -> None:
        """Write the buffered numbers of all loggers."""
        for logger in self._loggers:
            logger.flush()

    def close(self) -> None:
        """Write buffered numbers and close."""
        for logger in self._loggers:
            logger.close()
