"""Where pipeline and model meet: loaders for the trainer, networks from checkpoints, the run from first step to report."""

import platform
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from alexprep.model.alexnet import AlexNet, last_side, multiply_adds, parameters
from alexprep.model.distributed import Ranks, cpus_of_a_rank
from alexprep.model.evaluator import Evaluation, evaluate
from alexprep.model.optimizer import RATES, PaperSGD
from alexprep.model.trainer import Event, Pace, Trainer
from alexprep.pipeline import DamagedRecord, DataError, Loader, Manifest, Stats, load_stats, read_manifest
from alexprep.pipeline.config import Views

from .common import Bar, say
from .reporting import write_report
from .runs import LAST, RunFolder, checkpoint_settings, checkpoint_stats, load_checkpoint
from .settings import Settings, schedule_of
from .settings import resume as resume_settings

VIEWS: dict[int, Views] = {10: "ten", 1: "center"}


def check_data(directory: Path, settings: Settings, world_size: int) -> Manifest:
    """Return the data set if it can be trained on; DataError or ValueError says why not, before anything is started or made."""
    last_side(settings.crop)
    settings.loader(world_size=world_size)
    manifest = read_manifest(directory)
    records = manifest.split("train").records
    if records < settings.batch_size:
        raise DataError(f"{directory} has {records} training records, fewer than one batch of {settings.batch_size}; use a smaller --batch-size")
    if len(manifest.classes) < 2:
        raise DataError(f"{directory} has {len(manifest.classes)} class; training needs at least two")
    if settings.schedule == "plateau" and "val" not in manifest.splits:
        raise DataError(f"{directory} has no val split, and the plateau schedule follows the validation error: use --set schedule=fixed")
    if settings.crop > manifest.config.size:
        raise DataError(
            f"crop {settings.crop} does not fit into the records of {directory}, {manifest.config.size} pixels a side; use a smaller --crop"
        )
    return manifest


def build_model(settings: Settings, classes: int, ranks: Ranks) -> AlexNet:
    """Return the network of these settings on the rank's device, with its initial weights."""
    model = AlexNet(settings.preset, classes=classes, width=settings.width, crop=settings.crop, seed=settings.seed)
    return model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


class Run:
    """One training run: its parts, put together."""

    def __init__(self, data: Path, folder: RunFolder, settings: Settings, ranks: Ranks, cache: dict[str, Any]) -> None:
        """Build everything that the first step needs; `cache` is LoaderConfig's part for shards in an object store."""
        self.data, self.folder, self.settings, self.ranks, self._cache = data, folder, settings, ranks, cache
        self.manifest = check_data(data, settings, ranks.world_size)
        self.stats = load_stats(self.manifest)
        self.model = build_model(settings, len(self.manifest.classes), ranks)
        self._loaders: dict[str, Loader] = {}
        pace = Pace(
            settings.lr,
            self.manifest.split("train").records // settings.batch_size,
            settings.steps or None,
            settings.log_steps,
            settings.checkpoint_steps,
            settings.seed,
        )
        self.trainer = Trainer(self.model, PaperSGD(self.model, RATES[settings.preset]), schedule_of(settings), pace, ranks)

    def resume(self) -> None:
        """Continue from last.pt, if the run came that far."""
        path = self.folder.directory / LAST
        if not path.is_file():
            if (self.folder.directory / "best.pt").exists():
                raise DataError(f"{path} is gone, and with it the state to continue from; restore it, or start a new run in another --out")
            say(f"{self.folder.directory} was stopped before its first checkpoint: beginning again")
            return
        state = load_checkpoint(path)
        if state["plan"] != self.manifest.plan:
            raise DataError(f"{self.data} is not the data set that {self.folder.directory} was trained on; give that one")
        self.stats = checkpoint_stats(state)
        try:
            resume_settings(checkpoint_settings(state), asdict(self.settings))
            self.trainer.load_state_dict(state)
        except Exception as error:  # a file's content can be wrong in any way
            raise DataError(f"{path} does not fit this run's config.toml, or it is damaged: {(str(error) or repr(error)).splitlines()[0]}") from error

    def train(self) -> None:
        """Train to the end, log, evaluate with ten views and with one, and write the report."""
        self.ranks.check_same(f"plan {self.manifest.plan[:12]}, step {self.trainer.step}", "data set or checkpoint")
        bar = self._begin()
        with _damage_shown():
            for event in self.trainer.run(self._batches, lambda: self.evaluate(1), self._save):
                if bar is not None:
                    self._show(event, bar)
        results = [(views, self.evaluate(views)) for views in VIEWS]
        if bar is not None:
            bar.close()
            for views, result in results:
                if result is not None:
                    self.folder.log({"event": "result", "step": self.trainer.step, "views": views, **asdict(result)})
            write_report(self.folder, self.manifest, self.stats)

    def _show(self, event: Event, bar: Bar) -> None:
        """Log an event and tell the user."""
        if event["event"] == "tick":
            bar.at(event["step"])
            return
        if event["event"] == "step":
            ready = (loader.ready for name, loader in self._loaders.items() if name.startswith("train"))
            event = event | {"batches_ready": next((count for count in ready if count), 0)}
        self.folder.log(event)
        if event["event"] == "step":
            bar.at(event["step"], f"epoch {event['epoch']}, loss {event['loss']:.3f}, {event['images_per_s']:.0f} images/s")
        else:
            errors = f"top-1 error {100 * event['top1_error']:.2f} %, top-5 {100 * event['top5_error']:.2f} %"
            say(f"epoch {event['epoch']}: val {errors}, loss {event['loss']:.4f}")

    def evaluate(self, views: int) -> Evaluation | None:
        """Return the validation errors with that many views; None without a val split."""
        if "val" not in self.manifest.splits:
            return None
        return evaluate(self.model, self._loader(f"val {views}", **_evaluation("val", views, self.settings, self.ranks)), self.ranks)

    def _begin(self) -> Bar | None:
        """Prepare the log and return a progress bar, on rank 0."""
        if not self.ranks.first:
            return None
        rows = self.folder.rewind(self.trainer.step, self.trainer.validated)
        if self.trainer.step:
            say(f"continuing {self.folder.directory} at step {self.trainer.step}")
            before, now = next((row["ranks"] for row in reversed(rows) if row["event"] == "start"), 1), self.ranks.world_size
            if before != now:
                say(f"so far {before} ranks have trained it, now {now}: the same batches, but float32 sums are rounded differently")
        self.folder.log({"event": "start", "step": self.trainer.step, **self._facts()})
        steps, total = self.settings.steps, self.settings.epochs * self.trainer.pace.epoch_steps
        return Bar("train", min(steps, total) if steps else total, "steps")

    def _facts(self) -> dict[str, Any]:
        device = torch.cuda.get_device_name(self.ranks.device) if self.ranks.device.type == "cuda" else f"{platform.machine()} CPU"
        return {
            "settings": asdict(self.settings),
            "data": str(self.data),
            "plan": self.manifest.plan,
            "classes": len(self.manifest.classes),
            "parameters": parameters(self.model),
            "multiply_adds": multiply_adds(
                AlexNet(self.settings.preset, classes=len(self.manifest.classes), width=self.settings.width, crop=self.settings.crop),
                self.settings.crop,
            ),
            "device": device,
            "ranks": self.ranks.world_size,
            "versions": {"python": platform.python_version(), "alexprep": version("alexprep"), "torch": torch.__version__},
        }

    def _batches(self, step: int, colour: bool) -> Iterable[Any]:
        loader = self._loader(f"train colour {colour}", colour=self.settings.colour if colour else 0.0)
        loader.load_state_dict({"step": step})
        return loader

    def _loader(self, name: str, **changes: Any) -> Loader:  # noqa: ANN401  (fields of LoaderConfig)
        if name not in self._loaders:
            self._loaders[name] = open_loader(self.data, self.settings, self.stats, self.ranks, **self._cache, **changes)
        return self._loaders[name]

    def _save(self, name: str) -> None:
        if self.ranks.first:
            self.folder.save(name, self.trainer.state_dict(), self.settings, self.manifest.classes, self.stats, self.manifest.plan)


@contextmanager
def _damage_shown() -> Iterator[None]:
    """Show every warning of a damaged record, as a line of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DamagedRecord)
        show = warnings.showwarning
        warnings.showwarning = lambda message, category, *place: (
            say(f"warning: {message}") if category is DamagedRecord else show(message, category, *place)
        )
        yield


def open_loader(data: Path, settings: Settings, stats: Stats, ranks: Ranks, **changes: Any) -> Loader:  # noqa: ANN401  (fields of LoaderConfig)
    """Return this rank's loader."""
    gpu = ranks.device.type == "cuda"
    config = settings.loader(
        rank=ranks.rank,
        world_size=ranks.world_size,
        device="gpu" if gpu else "cpu",
        device_id=ranks.device.index if gpu else None,
        threads=settings.threads or cpus_of_a_rank(),
        **changes,
    )
    try:
        return Loader(data, config, stats=stats)
    except ValueError as error:
        raise DataError(f"{data}: {error}") from error


def _evaluation(split: str, views: int, settings: Settings, ranks: Ranks) -> dict[str, Any]:
    """Return the loader's options for evaluation; every rank needs a place in a batch, and every record counts once, or none does."""
    return {"split": split, "views": VIEWS[views], "batch_size": max(settings.eval_batch_size, ranks.world_size), "on_bad": "raise"}


def evaluate_checkpoint(checkpoint: Path, data: Path, split: str, views: int, ranks: Ranks, cache: dict[str, Any]) -> Evaluation:
    """Return the errors of a checkpoint on a split, with the mean image and the settings it was trained with."""
    state = load_checkpoint(checkpoint)
    settings = checkpoint_settings(state)
    manifest = read_manifest(data)
    classes = tuple(state["classes"])
    if manifest.classes != classes:
        different = next(
            (f"{ours!r} against {theirs!r}" for ours, theirs in zip(classes, manifest.classes, strict=False) if ours != theirs), "a different number"
        )
        raise DataError(f"{data} has other classes than the checkpoint was trained on ({len(manifest.classes)} and {len(classes)}; {different})")
    model = build_model(settings, len(classes), ranks)
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, TypeError, AttributeError) as error:
        raise DataError(f"{checkpoint} does not fit its own settings: {str(error).splitlines()[0]}") from error
    loader = open_loader(data, settings, checkpoint_stats(state), ranks, **cache, **_evaluation(split, views, settings, ranks))
    bar = Bar("eval", len(loader), "batches") if ranks.first else None

    def watched() -> Iterable[Any]:
        for number, batch in enumerate(loader, 1):
            yield batch
            if bar is not None:
                bar.at(number)

    result = evaluate(model, watched(), ranks)
    if bar is not None:
        bar.close()
    return result
