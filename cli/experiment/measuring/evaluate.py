"""Open loaders, load checkpoints for use, and evaluate one or several of them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from alexprep.model.config import Precision
from alexprep.model.distributed import Ranks, cpus_of_a_rank
from alexprep.model.evaluation.analysis import Calibration, ClassRow, Confusion, by_class, calibration, confusions
from alexprep.model.evaluation.evaluator import Evaluation, Predictions, averaged, outputs, predict
from alexprep.model.networks.alexnet import AlexNet
from alexprep.pipeline import DataError, Loader, Manifest, Records, Stats, read_manifest
from alexprep.pipeline.config import Views
from alexprep.pipeline.storage.uri import Location

from ..build import builder, on_device
from ..checkpoint import checkpoint_settings, checkpoint_stats, load_checkpoint
from ..config import RunConfig
from ..process.launch import this_process
from ..progress import Progress, Silent
from ..splits import split_or_default
from .predictions import write_predictions

VIEWS: dict[int, Views] = {10: "ten", 1: "center"}


def open_loader(data: Location, settings: RunConfig, stats: Stats, ranks: Ranks, **changes: Any) -> Loader:  # noqa: ANN401  (fields of LoaderConfig)
    """Return this rank's loader; `changes` replace fields of its config."""
    gpu = ranks.device.type == "cuda"
    defaults = {
        "rank": ranks.rank,
        "world_size": ranks.world_size,
        "device": "gpu" if gpu else "cpu",
        "device_id": ranks.device.index if gpu else None,
        "threads": settings.data.threads or cpus_of_a_rank(),
    }
    config = settings.loader(**(defaults | changes))
    try:
        return Loader(str(data), config, stats=stats)
    except ValueError as error:
        raise DataError(f"{data}: {error}") from error


def evaluation(split: str, views: int, settings: RunConfig, ranks: Ranks) -> dict[str, Any]:
    """Return the loader's options for evaluation.

    The batch size is at least the number of ranks. Every record counts once; a damaged record is an error.
    """
    return {"split": split, "views": VIEWS[views], "batch_size": max(settings.run.eval_batch_size, ranks.world_size), "on_bad": "raise"}


@dataclass(frozen=True)
class Trained:
    """A checkpoint that was loaded for use."""

    path: Path
    settings: RunConfig
    classes: tuple[str, ...]
    stats: Stats
    model: AlexNet  # on its device, with the averaged weights if the checkpoint has them
    step: int
    plan: str  # plan of its data set

    @classmethod
    def load(cls, path: Path, ranks: Ranks, own: str | None = "") -> "Trained":
        """Return the checkpoint in a file or a run's folder.

        own   package:function that makes the network, if it is the user's own: a checkpoint alone
              must not decide which code runs. None: only this project's AlexNets are accepted.

        DataError if the checkpoint is damaged, or of another network.
        """
        state = load_checkpoint(path)
        settings, stats = checkpoint_settings(state), checkpoint_stats(state)
        if own is None and not settings.alexnet:
            raise DataError(f"{path} is of a network without an fc7: give a checkpoint of one of this project's AlexNets")
        if settings.network.model != (own or ""):
            wanted = f"--model {settings.network.model}" if settings.network.model else "no --model"
            raise DataError(f"{path} is of a network that is made with {wanted}: give that, if you trust its code")
        try:
            classes, step = tuple(map(str, state["classes"])), int(state["step"])
            if len(stats.mean_image) < settings.data.crop:
                raise ValueError(f"a mean image of {len(stats.mean_image)} pixels for a crop of {settings.data.crop}")
            model = on_device(builder(settings, len(classes))(), ranks)
            model.load_state_dict(state["model"] | state.get("averages", {}))
        except (RuntimeError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{path} does not fit its own settings: {str(error).splitlines()[0]}") from error
        return cls(path, settings, classes, stats, model.eval(), step, str(state["plan"]))

    def check(self, manifest: Manifest) -> None:
        """Raise DataError if the data set has other classes."""
        if manifest.classes != self.classes:
            pairs = zip(self.classes, manifest.classes, strict=False)
            different = next((f"{ours!r} against {theirs!r}" for ours, theirs in pairs if ours != theirs), "a different number")
            counts = f"{len(manifest.classes)} and {len(self.classes)}"
            raise DataError(f"{manifest.directory} has other classes than the checkpoint was trained on ({counts}; {different})")

    def loader(self, data: Location, split: str, views: int, ranks: Ranks, cache: dict[str, Any]) -> Loader:
        """Return a loader of the evaluation views, less the mean image of the training."""
        return open_loader(data, self.settings, self.stats, ranks, **cache, **evaluation(split, views, self.settings, ranks))


def measure(
    checkpoints: Sequence[Trained],
    data: Location,
    split: str,
    views: int,
    ranks: Ranks,
    *,
    cache: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress = Silent,
) -> tuple[Predictions, Records]:
    """Return the predictions of the checkpoints for every record of a split, and the records.

    The probabilities are the mean of the checkpoints' probabilities.
    """
    manifest = read_manifest(data)
    for one in checkpoints:
        one.check(manifest)
    smallest = min(one.settings.run.eval_batch_size for one in checkpoints)
    batch_size = max(smallest, ranks.world_size)
    loaders = []
    for one in checkpoints:
        options = evaluation(split, views, one.settings, ranks) | {"batch_size": batch_size}
        loaders.append(open_loader(data, one.settings, one.stats, ranks, **(cache or {}), **options))
    sources: list[Iterable[Any]] = [watched(loaders[0], "eval", progress) if ranks.first else loaders[0], *loaders[1:]]
    found = predict(averaged([outputs(one.model, source, dtype) for one, source in zip(checkpoints, sources, strict=True)]), ranks)
    return found, loaders[0].records


def watched(loader: Loader, what: str, progress: Progress) -> Iterator[Any]:
    """Yield a loader's batches, and report progress."""
    bar = progress(what, len(loader), "batches")
    for number, batch in enumerate(loader, 1):
        yield batch
        bar.at(number)
    bar.close()


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Predictions of one or several checkpoints for a split, and their errors."""

    checkpoints: tuple[Path, ...]
    split: str
    views: int  # views per record: 10 or 1
    predictions: Predictions
    records: Records

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.records.manifest.classes

    @property
    def evaluation(self) -> Evaluation:
        """Top-1 and top-5 error, as fractions, and the loss."""
        return self.predictions.evaluation()

    def by_class(self) -> list[ClassRow]:
        """Return the errors of each class."""
        return by_class(self.predictions)

    def confusions(self) -> list[Confusion]:
        """Return which classes are taken for which, the most frequent first."""
        return confusions(self.predictions)

    def calibration(self) -> Calibration:
        """Return how closely probabilities agree with frequencies."""
        return calibration(self.predictions)

    def write(self, path: str | Path) -> None:
        """Publish the five best classes of every record as parquet."""
        facts = {"split": self.split, "views": self.views, "plan": self.records.manifest.plan, "checkpoints": [str(one) for one in self.checkpoints]}
        write_predictions(Path(path), self.predictions, self.records, facts)


def evaluate(
    checkpoint: str | Path | Sequence[str | Path],
    data: str | Path = "shards",
    split: str | None = None,
    views: Literal[1, 10] = 10,
    *,
    ranks: Ranks | None = None,
    model: str = "",
    precision: Precision = "float32",
    cache: Mapping[str, Any] | None = None,
    progress: Progress = Silent,
) -> Measurement:
    """Measure a checkpoint on a split of the shards in `data`.

    Several checkpoints are measured as an ensemble, by their mean probabilities.

    checkpoint   folder of a run (its last.pt) or a .pt file; or several
    split        None: val, or test where there is no val
    views        of a record: 10 averaged, or 1
    ranks        this process among its peers; None: alone, on a GPU if there is one
    model        package:function that made the network, if it is the user's own

    DataError if a file is damaged, or the data set has other classes.
    """
    paths = (checkpoint,) if isinstance(checkpoint, str | Path) else checkpoint
    ranks = this_process() if ranks is None else ranks
    where = Path(data)
    name = split_or_default(read_manifest(where), split)
    trained = [Trained.load(Path(path), ranks, model) for path in paths]
    found, records = measure(trained, where, name, views, ranks, cache=cache, dtype=getattr(torch, precision), progress=progress)
    return Measurement(checkpoints=tuple(map(Path, paths)), split=name, views=views, predictions=found, records=records)
