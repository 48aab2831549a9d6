"""A run's folder: config.toml, metrics.jsonl, last.pt, best.pt, report.html. All writing of training happens here."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.imaging.moments import Colours
from alexprep.pipeline.shards.stats import Stats
from alexprep.pipeline.storage.files import lock, published, remove_partials, write_array

from .settings import Settings, resolve

CHECKPOINT_FORMAT = 1
CONFIG, METRICS, LAST, KERNELS = "config.toml", "metrics.jsonl", "last.pt", "kernels"
PREDICTIONS = "predictions.parquet"
MOST_METRICS = 1 << 30  # bytes; a run of ImageNet has 20 million at most
KERNELS_GROWTH = 1.3  # the next frame of the kernels is kept after so many times the steps: 25 of a run of ImageNet


class RunFolder:
    """The files of one run."""

    def __init__(self, directory: Path) -> None:
        """Name the folder; it need not be there."""
        self.directory = directory

    @classmethod
    def new(cls, directory: Path | None) -> "RunFolder":
        """Make `directory`, or the next free runs/<n>; DataError if it already holds a run."""
        if directory is None:
            return cls(_next_folder())
        directory.mkdir(parents=True, exist_ok=True)
        if cls(directory).begun():
            raise DataError(f"{directory} already holds a run: --resume continues it; or choose another --out")
        if (directory / METRICS).exists() or any(directory.glob("*.pt")):
            raise DataError(f"{directory} holds a run's files, but no {CONFIG}: restore that, or choose another --out")
        return cls(directory)

    @classmethod
    def existing(cls, directory: Path | None) -> "RunFolder":
        """Return the run in `directory`, or the newest of runs/<n>; DataError if there is none."""
        if directory is None:
            numbered = [path for path in Path("runs").glob("*") if path.name.isdecimal()]
            if not numbered:
                raise DataError("there is no run in runs/ to resume; start one without --resume")
            directory = max(numbered, key=lambda path: int(path.name))
        if not cls(directory).begun():
            raise DataError(f"{directory} holds no run (no {CONFIG}): give a run's folder, or start one with alextrain run, without --resume")
        return cls(directory)

    def begun(self) -> bool:
        """Tell whether a run has been started here."""
        return (self.directory / CONFIG).is_file()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing here."""
        with lock(self.directory):
            remove_partials(self.directory)
            yield

    def settings(self) -> Settings:
        """Return the settings the run was started with."""
        path = self.directory / CONFIG
        try:
            return resolve(None, path, {}, ())
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error

    def write_settings(self, settings: Settings) -> None:
        """Publish config.toml."""
        with published(self.directory / CONFIG) as file:
            file.write(settings.to_toml().encode())

    @property
    def metrics(self) -> Path:
        """The file of its rows."""
        return self.directory / METRICS

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; a line cut off by a kill, or that is none of ours, is passed over."""
        path = self.directory / METRICS
        if not path.is_file():
            return []
        if path.stat().st_size > MOST_METRICS:
            raise DataError(f"{path} has {path.stat().st_size:,} bytes, more than {MOST_METRICS:,}: not a file of ours")
        rows = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and _complete(row):
                rows.append(row)
        return rows

    def start(self) -> dict[str, Any]:
        """Return the row of its last start: what it trains on, with what; nothing before the first."""
        return start_of(self.rows())

    def rewind(self, step: int, validated: int) -> list[dict[str, Any]]:
        """Drop the rows after `step` and epoch `validated`, which will be written again, and a finished run's results; return the rest."""
        again = {"step": lambda row: row["step"] > step, "eval": lambda row: row["epoch"] > validated, "start": lambda row: row["step"] > step}
        kept = [row for row in self.rows() if row["event"] in again and not again[row["event"]](row)]
        with published(self.directory / METRICS) as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
        later = [path for number, path in self.kernels().items() if number > step]
        for path in (*later, self.directory / PREDICTIONS):  # what the run has left said, and will say again at its end
            path.unlink(missing_ok=True)
        return kept

    def log(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl."""
        with (self.directory / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save(self, name: str, state: dict[str, Any], settings: Settings, classes: tuple[str, ...], stats: Stats, plan: str) -> None:
        """Publish a checkpoint: tensors and plain values, and all that evaluation needs."""
        extra = {"format": CHECKPOINT_FORMAT, "settings": asdict(settings), "classes": list(classes), "stats": _stats_state(stats), "plan": plan}
        try:
            with published(self.directory / f"{name}.pt") as file:
                torch.save(state | extra, file)
        except (OSError, RuntimeError) as error:  # torch's archive says the latter of a file that takes no more
            cause = next((one for one in (error, error.__context__) if isinstance(one, OSError)), None)
            why = cause.strerror if cause else error
            path = f"{self.directory / name}.pt"
            raise DataError(f"cannot write {path}: {why}; the one before it is kept, --resume continues from there") from error

    def keep_kernels(self, step: int, kernels: torch.Tensor | None, *, always: bool = False) -> None:
        """Keep the first layer's kernels as kernels/step-<n>.npy (float16), if enough steps have passed since the last ones, or `always`.

        What cannot be written is not missed: the picture of a run has a frame less.
        """
        last = max(self.kernels(), default=-1)
        if kernels is None or not (always or last < 0 or step >= KERNELS_GROWTH * max(last, 1)):
            return
        try:
            (self.directory / KERNELS).mkdir(exist_ok=True)
            write_array(self.directory / KERNELS / f"step-{step}.npy", kernels.half().numpy())
        except OSError:
            return

    def kernels(self) -> dict[int, Path]:
        """Return the files of the kernels that were kept, by step, in order."""
        names = {
            int(match[1]): path for path in (self.directory / KERNELS).glob("*.npy") if (match := re.fullmatch(r"step-([0-9]+)\.npy", path.name))
        }
        return dict(sorted(names.items()))

    def keep(self, step: int, most: int) -> None:
        """Keep a copy of last.pt as step-<n>.pt, and of those up to this step the `most` newest; later ones are of a course that was left."""
        directory = self.directory
        here = directory / f"step-{step}.pt"
        try:
            with published(here) as file, (directory / LAST).open("rb") as last:
                shutil.copyfileobj(last, file)
            numbered = {int(match[1]): path for path in directory.glob("step-*.pt") if (match := re.fullmatch(r"step-([0-9]+)\.pt", path.name))}
            kept = sorted(number for number in numbered if number <= step)[-most:]
            for number in set(numbered) - set(kept):
                numbered[number].unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"cannot keep {here}: {error.strerror}; {LAST} is written") from error


def start_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the last "start" row of them; nothing without one."""
    return next((row for row in reversed(rows) if row["event"] == "start"), {})


# What a row of each event has, in numbers; "start" has more beside.
_NUMBERS = {
    "start": ("step", "ranks", "classes", "parameters", "multiply_adds"),
    "step": ("step", "epoch", "loss", "lr", "images_per_s", "wait_share"),
    "eval": ("step", "epoch", "views", "count", "top1_error", "top5_error", "loss"),
    "result": ("step", "views", "count", "top1_error", "top5_error", "loss"),
}


def _complete(row: dict[str, Any]) -> bool:
    event = row.get("event")
    if not isinstance(event, str) or event not in _NUMBERS:
        return False
    if event == "start" and not (isinstance(row.get("settings"), dict) and isinstance(row.get("versions"), dict) and "device" in row):
        return False
    optional = (row[name] for name in ("error", "train_error", "batches_ready") if row.get(name) is not None)
    shares = (row.get(name, 0) for name in ("top1_error", "top5_error"))
    counts = (row.get(name, 0) for name in ("step", "epoch", "count"))
    numbers = [*(row.get(name) for name in _NUMBERS[event]), *optional]
    return all(map(_number, numbers)) and all(0 <= share <= 1 for share in shares) and all(count >= 0 for count in counts)


def _number(value: Any) -> bool:  # noqa: ANN401  (from a file)
    """Tell a number that can be reckoned with: no NaN, and nothing that a float cannot hold."""
    return isinstance(value, int | float) and abs(value) < 1e300


def _next_folder() -> Path:
    """Make the next runs/<n>; two runs that start together get two."""
    while True:
        number = 1 + max((int(path.name) for path in Path("runs").glob("*") if path.name.isdecimal()), default=0)
        directory = Path("runs") / str(number)
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        return directory


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint file, or a run folder's last.pt. Nothing in it is executed (no pickle); DataError if it is not one of ours."""
    if path.is_dir():
        path = path / LAST
    if not path.is_file():
        raise DataError(f"no checkpoint {path}: give a run folder or one of its .pt files")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
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
    except Exception as error:  # torch.load raises anything on strange bytes
        what = f": {error}" if isinstance(error, ValueError) else f" ({type(error).__name__})"  # torch's own texts advise to run its code
        raise DataError(f"{path} is not a checkpoint of ours, or it is damaged{what}; best.pt or a step-<n>.pt beside it may be good") from error
    return dict(state)


def first_kernels(weights: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """Return the weights of the first layer [c,3,h,w], if it has kernels that one can look at."""
    return next((weight.detach().cpu() for weight in weights.values() if weight.ndim == 4 and weight.shape[1] == 3), None)


def checkpoint_settings(state: dict[str, Any]) -> Settings:
    """Return the settings a checkpoint was trained with."""
    try:
        return resolve(None, None, state["settings"], ())
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"the checkpoint's settings are not of this release: {error}") from error


def _stats_state(stats: Stats) -> dict[str, Any]:
    colours = {name: torch.from_numpy(value.copy()) for name, value in vars(stats.colours).items()}
    return {"split": stats.split, "images": stats.images, "pixels": stats.pixels, "mean_image": torch.from_numpy(stats.mean_image.copy()), **colours}


def checkpoint_stats(state: dict[str, Any]) -> Stats:
    """Return the statistics of the training split that a checkpoint was trained with."""
    value = state["stats"]
    try:
        colours = Colours(*(value[name].numpy() for name in ("mean", "covariance", "eigenvalues", "eigenvectors")))
        image = value["mean_image"].numpy()
        if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] != image.shape[1] or [len(part) for part in vars(colours).values()] != [3] * 4:
            raise TypeError(f"the mean image is of shape {image.shape}")
        return Stats(value["split"], value["images"], value["pixels"], colours, image)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the checkpoint's statistics are damaged: {error}") from error
