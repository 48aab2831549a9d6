"""Write and read checkpoints: files of tensors and plain values.

They are written in a thread while training goes on, and read without executing anything.
"""

import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.imaging.moments import Colours
from alexprep.pipeline.shards.stats import Stats
from alexprep.pipeline.storage.files import published

from .config import RunConfig, resolve

CHECKPOINT_FORMAT = 1
LAST, BEST = "last.pt", "best.pt"


class Saver:
    """Writes one checkpoint at a time in a thread of its own, while training goes on.

    A write error, such as a full disk, becomes a warning: the previous checkpoint is kept, and the
    next one is written when it is due.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        """Prepare the thread; `warn` is called with the message of a failed write."""
        self._warn = warn
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._error: DataError | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Call `write` in the thread, after the previous write has ended."""
        self.wait()
        self._pending = self._pool.submit(write)

    def wait(self) -> None:
        """Wait for the write under way; a failure is passed to `warn`."""
        pending, self._pending, self._error = self._pending, None, None if self._pending is not None else self._error
        try:
            if pending is not None:
                pending.result()
        except DataError as error:
            self._error = error
            self._warn(str(error))

    def close(self) -> None:
        """Wait; raise the DataError if the last checkpoint could not be written."""
        self.wait()
        self._pool.shutdown()
        if self._error is not None:
            raise self._error


def write_checkpoint(path: Path, state: dict[str, Any], settings: RunConfig, classes: tuple[str, ...], stats: Stats, plan: str) -> None:
    """Publish a checkpoint: `state`, and all else that evaluation needs. DataError if it cannot be written."""
    extra = {"format": CHECKPOINT_FORMAT, "settings": settings.flat(), "classes": list(classes), "stats": _stats_state(stats), "plan": plan}
    try:
        with published(path) as file:
            torch.save(state | extra, file)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if its archive cannot grow
        cause = next((one for one in (error, error.__context__) if isinstance(one, OSError)), None)
        why = cause.strerror if cause else error
        raise DataError(f"cannot write {path}: {why}; the previous checkpoint is kept, --resume continues from it") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, or of a run folder's last.pt.

    Nothing in it is executed (no pickle). DataError if it is not a checkpoint of this project.
    """
    if path.is_dir():
        path = path / LAST
    if not path.is_file():
        raise DataError(f"no checkpoint {path}: give a run folder or one of its .pt files")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not check the checksums
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"the checksum of its part {bad} differs")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != CHECKPOINT_FORMAT:
            raise DataError(f"{path} has checkpoint format {state['format']}; this release reads {CHECKPOINT_FORMAT}")
        missing = {"step", "model", "velocities", "schedule", "settings", "classes", "stats", "plan"} - set(state)
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except DataError:
        raise
    except Exception as error:  # torch.load may raise anything on damaged bytes
        # torch's own messages are not shown: they advise to run the file's code
        what = f": {error}" if isinstance(error, ValueError) else f" ({type(error).__name__})"
        raise DataError(f"{path} is not a checkpoint of ours, or it is damaged{what}; best.pt or a step-<n>.pt beside it may be good") from error
    return dict(state)


def first_kernels(weights: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """Return the first layer's RGB kernels [c,3,h,w]; None if no weight has that shape."""
    return next((weight.detach().cpu() for weight in weights.values() if weight.ndim == 4 and weight.shape[1] == 3), None)


def checkpoint_settings(state: dict[str, Any]) -> RunConfig:
    """Return the settings that a checkpoint was trained with; DataError if they are invalid."""
    try:
        return resolve(None, None, state["settings"], ())
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"the checkpoint's settings are not of this release: {error}") from error


def _stats_state(stats: Stats) -> dict[str, Any]:
    colours = {name: torch.from_numpy(value.copy()) for name, value in vars(stats.colours).items()}
    return {"split": stats.split, "images": stats.images, "pixels": stats.pixels, "mean_image": torch.from_numpy(stats.mean_image.copy()), **colours}


def checkpoint_stats(state: dict[str, Any]) -> Stats:
    """Return the statistics of the training split that a checkpoint was trained with. DataError if they are damaged."""
    value = state["stats"]
    try:
        colours = Colours(*(value[name].numpy() for name in ("mean", "covariance", "eigenvalues", "eigenvectors")))
        image = value["mean_image"].numpy()
        if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1] or [len(part) for part in vars(colours).values()] != [3] * 4:
            raise TypeError(f"the mean image is of shape {image.shape}")
        return Stats(value["split"], value["images"], value["pixels"], colours, image)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the checkpoint's statistics are damaged: {error}") from error
