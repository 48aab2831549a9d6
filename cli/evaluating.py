"""Loaders for the trainer, checkpoints made ready for use, and the measuring of one or several."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from alexprep.model.distributed import Ranks, cpus_of_a_rank
from alexprep.model.evaluation.evaluator import FIVE, Predictions, averaged, outputs, predict
from alexprep.model.networks.alexnet import AlexNet
from alexprep.pipeline import DataError, Loader, Manifest, Records, Stats, read_manifest
from alexprep.pipeline.config import Views
from alexprep.pipeline.storage.files import published
from alexprep.pipeline.storage.uri import Location

from .building import builder, on_device
from .common import Bar
from .runs import checkpoint_settings, checkpoint_stats, load_checkpoint
from .settings import Settings

VIEWS: dict[int, Views] = {10: "ten", 1: "center"}


def open_loader(data: Location, settings: Settings, stats: Stats, ranks: Ranks, **changes: Any) -> Loader:  # noqa: ANN401  (fields of LoaderConfig)
    """Return this rank's loader."""
    gpu = ranks.device.type == "cuda"
    defaults = {
        "rank": ranks.rank,
        "world_size": ranks.world_size,
        "device": "gpu" if gpu else "cpu",
        "device_id": ranks.device.index if gpu else None,
        "threads": settings.threads or cpus_of_a_rank(),
    }
    config = settings.loader(**(defaults | changes))
    try:
        return Loader(str(data), config, stats=stats)
    except ValueError as error:
        raise DataError(f"{data}: {error}") from error


def evaluation(split: str, views: int, settings: Settings, ranks: Ranks) -> dict[str, Any]:
    """Return the loader's options for evaluation; every rank needs a place in a batch, and every record counts once, or none does."""
    return {"split": split, "views": VIEWS[views], "batch_size": max(settings.eval_batch_size, ranks.world_size), "on_bad": "raise"}


@dataclass(frozen=True)
class Trained:
    """A checkpoint, ready to be used."""

    path: Path
    settings: Settings
    classes: tuple[str, ...]
    stats: Stats
    model: AlexNet  # with the mean weights, if it has them; on its device
    step: int
    plan: str  # of its data set

    @classmethod
    def load(cls, path: Path, ranks: Ranks, own: str | None = "") -> "Trained":
        """Return the checkpoint in a file or a run's folder; DataError if it is damaged, or not of this network.

        `own` is the package:function that makes the network, if it is none of this project's: a checkpoint's word is not enough to run code.
        None: only the AlexNets of this project will do.
        """
        state = load_checkpoint(path)
        settings, stats = checkpoint_settings(state), checkpoint_stats(state)
        if own is None and not settings.alexnet:
            raise DataError(f"{path} is of a network without an fc7: this is for the AlexNets of this project")
        if settings.model != (own or ""):
            wanted = f"--model {settings.model}" if settings.model else "no --model"
            raise DataError(f"{path} is of a network that is made with {wanted}: give that, if you trust what it runs")
        try:
            classes, step = tuple(map(str, state["classes"])), int(state["step"])
            if len(stats.mean_image) < settings.crop:
                raise ValueError(f"a mean image of {len(stats.mean_image)} pixels for a crop of {settings.crop}")
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
        """Return a loader of the views that it is measured on, less the mean image that it was trained with."""
        return open_loader(data, self.settings, self.stats, ranks, **cache, **evaluation(split, views, self.settings, ranks))


def measure(
    checkpoints: Sequence[Trained], data: Location, split: str, views: int, ranks: Ranks, cache: dict[str, Any], dtype: torch.dtype
) -> tuple[Predictions, Records]:
    """Return what the checkpoints say together of every record of a split (the mean of their probabilities), and the records."""
    manifest = read_manifest(data)
    for one in checkpoints:
        one.check(manifest)
    smallest = min(one.settings.eval_batch_size for one in checkpoints)
    batch_size = max(smallest, ranks.world_size)
    loaders = []
    for one in checkpoints:
        options = evaluation(split, views, one.settings, ranks) | {"batch_size": batch_size}
        loaders.append(open_loader(data, one.settings, one.stats, ranks, **cache, **options))
    sources: list[Iterable[Any]] = [watched(loaders[0], "eval") if ranks.first else loaders[0], *loaders[1:]]
    found = predict(averaged([outputs(one.model, source, dtype) for one, source in zip(checkpoints, sources, strict=True)]), ranks)
    return found, loaders[0].records


def watched(loader: Loader, what: str) -> Iterator[Any]:
    """Yield a loader's batches, with a progress bar."""
    bar = Bar(what, len(loader), "batches")
    for number, batch in enumerate(loader, 1):
        yield batch
        bar.at(number)
    bar.close()


def write_predictions(path: Path, found: Predictions, records: Records, facts: dict[str, Any]) -> None:
    """Publish predictions as parquet: a row a record, with its key; `facts` (split, views, plan, step) go into the schema's metadata."""
    keys = records.keys()
    keys = keys.take(pa.array(found.records.numpy())) if len(found.records) else keys.slice(0, 0)
    columns = {
        "record": pa.array(found.records.numpy()),
        "key": keys,
        "label": pa.array(found.labels.numpy()),
        "best": pa.FixedSizeListArray.from_arrays(pa.array(found.best.numpy().ravel()), found.best.shape[1]),
        "p": pa.FixedSizeListArray.from_arrays(pa.array(found.p.numpy().ravel()), found.p.shape[1]),
        "true_p": pa.array(found.true_p.numpy()),
    }
    table = pa.table(columns).replace_schema_metadata({"alexprep": json.dumps(facts | {"classes": list(records.manifest.classes)})})
    with published(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_predictions(path: Path) -> tuple[Predictions, dict[str, Any]]:
    """Return what `write_predictions` wrote, and its facts; DataError if it is not that."""
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"alexprep"])
        count, classes = len(table), len(facts["classes"])
        k = min(FIVE, classes)
        wide = {name: torch.from_numpy(table[name].combine_chunks().flatten().to_numpy().copy()).reshape(count, k) for name in ("best", "p")}
        flat = {name: torch.from_numpy(table[name].to_numpy().copy()) for name in ("record", "label", "true_p")}
        found = Predictions(flat["record"], flat["label"], wide["best"], wide["p"], flat["true_p"])
        kinds = [values.dtype for values in (found.records, found.labels, found.best, found.p, found.true_p)]
        if kinds != [torch.int64] * 3 + [torch.float32] * 2 or not isinstance(facts.get("split"), str):
            raise ValueError("its columns or facts are of other types")
        named = torch.cat([found.best.flatten(), found.labels])
        if count and not 0 <= int(named.min()) <= int(named.max()) < classes:
            raise ValueError("a label is beyond its classes")
    except Exception as error:  # a file's content can be wrong in any way
        raise DataError(f"{path} does not hold predictions of ours, or it is damaged: {error}; alextrain eval --predictions writes them") from error
    return found, facts
