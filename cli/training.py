"""Where pipeline and model meet: the run, from its first step to its report."""

import copy
import json
import os
import platform
import shlex
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.evaluation.evaluator import Evaluation, Predictions, outputs, predict
from alexprep.model.networks.alexnet import parameters
from alexprep.model.networks.summary import multiply_adds
from alexprep.model.training.optimizer import RATES, PaperSGD
from alexprep.model.training.parallel_layout import lay_out
from alexprep.model.training.trainer import Event, NotFinite, Trainer, TrainerConfig
from alexprep.pipeline import DamagedRecord, DataError, Loader, load_stats
from alexprep.pipeline.inspection.replay import receipt
from alexprep.pipeline.storage.files import published

from . import synthetic
from .building import builder, check_data, choose_layout, on_device, validation_split
from .common import Bar, say
from .evaluating import VIEWS, evaluation, open_loader, write_predictions
from .loggers import Loggers
from .profiling import profiling
from .reporting import REPORT, write_report
from .runs import LAST, PREDICTIONS, RunFolder, checkpoint_settings, checkpoint_stats, first_kernels, load_checkpoint
from .safety import Saver, Stop, Watchdog, tell_launcher
from .settings import Settings, schedule_of
from .settings import resume as resume_settings


class Run:
    """One training run: its parts, put together."""

    def __init__(
        self,
        data: Path,
        folder: RunFolder,
        settings: Settings,
        ranks: Ranks,
        cache: dict[str, Any],
        *,
        most_evaluated: int | None = None,
        profile: bool = False,
    ) -> None:
        """Build everything that the first step needs; `cache` is LoaderConfig's part for shards in an object store.

        `most_evaluated` batches are evaluated, None: all; `profile` writes what torch does in a few steps.
        """
        self._profile = profile
        self.data, self.folder, self.settings, self.ranks, self._cache = data, folder, settings, ranks, cache
        self._most_evaluated, self._saver, self._watchdog = most_evaluated, Saver(), Watchdog(settings.hang_seconds)
        self.manifest = check_data(data, settings, ranks.world_size)
        self._synthetic = data == synthetic.NOWHERE
        self.stats = synthetic.stats(settings) if self._synthetic else load_stats(self.manifest)
        if settings.deterministic:  # it imports torch's compiler, 2 seconds
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
            torch.use_deterministic_algorithms(True)  # noqa: FBT003
        build = builder(settings, len(self.manifest.classes))
        self.whole = on_device(build(), ranks)  # with the initial weights; later what all ranks evaluate
        name, reason = choose_layout(settings, self.whole, ranks.world_size)
        if reason and ranks.first:
            say(reason)
        self.layout = lay_out(name, ranks, self.whole, half_gradients=settings.gradients == "bfloat16")
        self.model = self.whole
        if name != "data":
            self.model = on_device(build(convs=self.layout.convs, fcs=self.layout.fcs), ranks)
            self.model.load_state_dict(self.layout.part(self.whole.state_dict()))
        elif settings.ema:
            self.model = copy.deepcopy(self.whole)
        self._loaders: dict[str, Loader] = {}
        self._loggers = Loggers("", folder.directory, {})
        pace = TrainerConfig(
            settings.lr,
            self.manifest.split("train").records // settings.batch_size,
            settings.steps or None,
            settings.log_steps,
            settings.checkpoint_steps,
            60 * settings.checkpoint_minutes or float("inf"),
            settings.seed,
            getattr(torch, settings.precision),
            settings.accumulate,
            settings.compile,
            settings.ema,
            reseed=bool(settings.model),
            until=settings.until,
        )
        rates = replace(RATES[settings.preset], weight_decay=settings.weight_decay)
        optimizer = PaperSGD(self.model, rates, first_layer="" if settings.model else "conv1.")
        self.trainer = Trainer(self.model, optimizer, schedule_of(settings), pace, self.layout)

    def resume(self) -> None:
        """Continue from last.pt, if the run came that far."""
        path = self.folder.directory / LAST
        if not path.is_file():
            if (self.folder.directory / "best.pt").exists():
                raise DataError(f"{path} is gone, and with it the state to continue from; restore it, or start a new run in another --out")
            if self.ranks.first:
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

    def train(self, stop: Stop) -> None:
        """Train to the end, log, evaluate with ten views and with one, and write the report; or stop after the step in which a signal asks for it.

        TrainingError if the loss is not finite: then the state before that step and its batch's receipts are in the run's folder.
        """
        self.ranks.check_same(f"plan {self.manifest.plan[:12]}, step {self.trainer.step}", "data set or checkpoint")
        bar = self._begin()
        self._watchdog.alive()
        with _damage_shown(), profiling(self.folder.directory / "profile.json" if self._profile and self.ranks.first else None) as profiled:
            try:
                stop.at_once = False
                for event in self.trainer.run(self._batches, self.evaluate, self._save, stop):
                    self._watchdog.alive()
                    profiled()
                    if bar is not None:
                        self._show(event, bar)
            except NotFinite as error:
                raise TrainingError(self._keep_divergence(error)) from error
            finally:
                self._loggers.flush()
            self._saver.close()
            self.ranks.sum(torch.zeros(1, device=self.ranks.device))  # nobody leaves before it is written: that would end the others
            if not self.trainer.stopped:
                stop.at_once = True
                self._finish(bar)
            elif bar is not None:
                bar.close()
                say(f"stopped by {stop.name or 'a signal to another rank'} after step {self.trainer.step}, with a checkpoint; --resume continues")
                tell_launcher()
        self._loggers.close()
        self._watchdog.rest()

    def _finish(self, bar: Bar | None) -> None:
        found = {views: self.predict(views) for views in VIEWS}
        weights = self.trainer.evaluated()  # all ranks have a part in it
        if bar is None:
            return
        bar.close()
        for views, predictions in found.items():
            if predictions is not None:
                self._log({"event": "result", "step": self.trainer.step, "views": views, **asdict(predictions.evaluation())})
        split, ten = validation_split(self.manifest), found[10]
        if split is not None and ten is not None:
            facts = {"split": split, "views": 10, "plan": self.manifest.plan, "step": self.trainer.step}
            write_predictions(self.folder.directory / PREDICTIONS, ten, self._loaders[f"{split} 10"].records, facts)
        if not self._synthetic:
            self.folder.keep_kernels(self.trainer.step, first_kernels(weights), always=True)
            write_report([self.folder], self.folder.directory / REPORT)

    def _keep_divergence(self, error: NotFinite) -> str:
        """Keep the state before the step and the receipts of its whole batch; return what to say."""
        state = self.trainer.state_dict()
        if not self.ranks.first:
            return str(error)
        self._write("diverged", state)
        if self._synthetic:
            return str(error)
        loader = next(loader for name, loader in self._loaders.items() if name.startswith("train"))
        config, path = loader.config, self.folder.directory / "diverged.jsonl"
        with published(path) as file:
            for index in range(config.batch_size):
                file.write(json.dumps(receipt(loader.records, config, self.stats, error.step, index).to_json()).encode() + b"\n")
        drawn = shlex.join(map(str, ["alexprep", "replay", self.data, "--run", self.folder.directory, "--step", error.step, "--index", 0]))
        return f"{error}. The state before that step is {path.with_suffix('.pt')}, its batch {path}; {drawn} draws a sample of it"

    def _show(self, event: Event, bar: Bar) -> None:
        """Log an event and tell the user."""
        if event["event"] == "tick":
            bar.at(event["step"])
            return
        if event["event"] == "step":
            ready = (loader.ready for name, loader in self._loaders.items() if name.startswith("train"))
            event = event | {"batches_ready": next((count for count in ready if count), 0)}
        self._log(event)
        if event["event"] == "step":
            bar.at(event["step"], f"epoch {event['epoch']}, loss {event['loss']:.3f}, {event['images_per_s']:.0f} images/s")
        else:
            errors = f"top-1 error {100 * event['top1_error']:.2f} %, top-5 {100 * event['top5_error']:.2f} %"
            say(f"epoch {event['epoch']}: {validation_split(self.manifest)} {errors}, loss {event['loss']:.4f}")

    def _log(self, row: dict[str, Any]) -> None:
        """Log a row. A disk that is full is no reason to stop."""
        try:
            self.folder.log(row)
            self._loggers.log(row)
        except OSError as error:
            say(f"warning: a row of step {row['step']} is not in {error.filename or self.folder.directory}: {error.strerror}")

    def evaluate(self) -> Evaluation | None:
        """Return the validation errors of the centre view; None without a split to validate on."""
        found = self.predict(1)
        return None if found is None else found.evaluation()

    def predict(self, views: int) -> Predictions | None:
        """Return what the network says of the validation images, with that many views; None without a split to validate on."""
        split = validation_split(self.manifest)
        if split is None:
            return None
        self.layout.align(self.model)
        if self.whole is not self.model:
            self.whole.load_state_dict(self.trainer.evaluated())
        loader = self._loader(f"{split} {views}", **evaluation(split, views, self.settings, self.ranks))
        return predict(outputs(self.whole, self._watchdog.over(islice(loader, self._most_evaluated))), self.ranks)

    def _begin(self) -> Bar | None:
        """Prepare the log and return a progress bar, on rank 0."""
        if not self.ranks.first:
            return None
        self._loggers = Loggers(self.settings.loggers, self.folder.directory, asdict(self.settings))
        rows = self.folder.rewind(self.trainer.step, self.trainer.validated)
        if self.trainer.step:
            say(f"continuing {self.folder.directory} at step {self.trainer.step}")
            before, now = next((row["ranks"] for row in reversed(rows) if row["event"] == "start"), 1), self.ranks.world_size
            if before != now:
                say(f"so far {before} ranks have trained it, now {now}: the same batches, but float32 sums are rounded differently")
        self._log({"event": "start", "step": self.trainer.step, **self._facts()})
        if not self.trainer.step:
            self.folder.keep_kernels(0, first_kernels(self.whole.state_dict()))
        steps, total = self.settings.steps, self.settings.epochs * self.trainer.pace.epoch_steps
        return Bar("train", min(steps, total) if steps else total, "steps")

    def _facts(self) -> dict[str, Any]:
        device = torch.cuda.get_device_name(self.ranks.device) if self.ranks.device.type == "cuda" else f"{platform.machine()} CPU"
        return {
            "settings": asdict(self.settings),
            "data": str(self.data),
            "plan": self.manifest.plan,
            "classes": len(self.manifest.classes),
            "parameters": parameters(self.whole),
            "multiply_adds": 0 if not self.settings.alexnet else multiply_adds(self.whole, self.settings.crop),
            "parallel": self.layout.name,
            "device": device,
            "ranks": self.ranks.world_size,
            "versions": {"python": platform.python_version(), "alexprep": version("alexprep"), "torch": torch.__version__},
        }

    def _batches(self, step: int, colour: bool) -> Iterable[Any]:
        rank, world_size = self.layout.feed
        if self._synthetic:
            return synthetic.batches(step, self.trainer.pace.epoch_steps, self.settings, self.layout.feed, self.ranks.device)
        loader = self._loader(f"train colour {colour}", colour=self.settings.colour if colour else 0.0, rank=rank, world_size=world_size)
        loader.load_state_dict({"step": step})
        return loader

    def _loader(self, name: str, **changes: Any) -> Loader:  # noqa: ANN401  (fields of LoaderConfig)
        if name not in self._loaders:
            self._loaders[name] = open_loader(self.data, self.settings, self.stats, self.ranks, **self._cache, **changes)
        return self._loaders[name]

    def _save(self, name: str) -> None:
        state = self.trainer.state_dict()  # all ranks have a part in it
        if self.ranks.first:
            self._saver.wait()  # so that there are two copies at most
            kept = _copied(state)  # training goes on while it is written
            self._saver.submit(lambda: self._write(name, kept))

    def _write(self, name: str, state: dict[str, Any]) -> None:
        self.folder.save(name, state, self.settings, self.manifest.classes, self.stats, self.manifest.plan)
        self.folder.keep_kernels(state["step"], first_kernels(state["model"] | state.get("averages", {})))
        if name == "last" and self.settings.keep > 1:
            self.folder.keep(state["step"], self.settings.keep)


def _copied(state: Any) -> Any:  # noqa: ANN401  (tensors and plain values)
    """Return a copy in the CPU's memory."""
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, torch.Tensor) else state


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
