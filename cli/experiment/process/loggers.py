"""Where a run's metrics go beside metrics.jsonl: TensorBoard, Weights & Biases, trackio. Nothing leaves the machine unless the user says so."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from alexprep.pipeline.errors import DataError


class Logger(Protocol):
    """Takes the numbers of a row of metrics.jsonl."""

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Take numbers by name, such as "step/loss"."""

    def flush(self) -> None:
        """Write out what is there."""

    def close(self) -> None:
        """Write out what is left."""


class TensorBoard:
    """Event files in the run's folder: tensorboard --logdir runs/."""

    def __init__(self, folder: Path, _settings: dict[str, Any]) -> None:
        """Begin, or go on."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(folder / "tensorboard")

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Take numbers by name."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write out what is there."""
        self._writer.flush()

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


class Wandb:
    """Weights & Biases; offline, in the run's folder, unless WANDB_MODE says otherwise (wandb sync sends it later)."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Begin, or go on."""
        import wandb  # type: ignore[import-not-found]  # only where the user has it

        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project="alexprep", name=folder.name, dir=str(folder), config=settings, mode=mode)

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Take numbers by name."""
        self._run.log(numbers, step=step)

    def flush(self) -> None:
        """Do nothing: it writes by itself."""

    def close(self) -> None:
        """Write out what is left."""
        self._run.finish()


class Trackio:
    """trackio, whose database is on this machine (TRACKIO_DIR): trackio show."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Begin, or go on."""
        import trackio  # type: ignore[import-not-found]  # only where the user has it

        self._trackio = trackio
        trackio.init(project="alexprep", name=folder.name, config=settings)

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Take numbers by name."""
        self._trackio.log(numbers, step=step)

    def flush(self) -> None:
        """Do nothing: it writes by itself."""

    def close(self) -> None:
        """Write out what is left."""
        self._trackio.finish()


LOGGERS: dict[str, Callable[[Path, dict[str, Any]], Logger]] = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


def names_of(names: str) -> list[str]:
    """Return the names in a comma-separated list."""
    return [name.strip() for name in names.split(",") if name.strip()]


def check_installed(names: str) -> None:
    """Raise DataError if a logger's package is not here."""
    for name in names_of(names):
        if find_spec(name) is None:
            raise DataError(f"{name} is not installed: pip install {name}, or leave it out of loggers")


class Loggers:
    """All that a run was given."""

    def __init__(self, names: str, folder: Path, settings: dict[str, Any]) -> None:
        """Open those named, separated by commas."""
        self._loggers = [LOGGERS[name](folder, settings) for name in names_of(names)]

    def log(self, row: dict[str, Any]) -> None:
        """Take a row of metrics.jsonl that belongs to a step."""
        event = row["event"]
        numbers = {f"{event}/{name}": value for name, value in row.items() if isinstance(value, int | float) and name not in ("event", "step")}
        if event != "start":
            for logger in self._loggers:
                logger.log(numbers, row["step"])

    def flush(self) -> None:
        """Write out what is there, whatever comes next."""
        for logger in self._loggers:
            logger.flush()

    def close(self) -> None:
        """Write out what is left."""
        for logger in self._loggers:
            logger.close()
