"""Train one run, from its first step to its report: joins pipeline and model."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.evaluation.evaluator import Evaluation, Predictions, outputs, predict
from alexprep.model.events import Measured, RunEvent, StepLog, Tick, last_start
from alexprep.model.training.trainer import NotFinite
from alexprep.pipeline import DataError, load_stats

from . import synthetic
from .build import build, started
from .checkpoint import BEST, LAST, checkpoint_settings, checkpoint_stats, first_kernels, load_checkpoint
from .config import RunConfig
from .config import resume as resume_settings
from .events import Event, Finished, Notice, Stopped
from .measuring.evaluate import VIEWS
from .measuring.predictions import write_predictions
from .process.launch import this_process
from .process.profiler import profiling
from .process.signals import Stop, tell_launcher
from .process.watchdog import Watchdog
from .reporting.report_data import REPORT, write_report
from .run_folder import PREDICTIONS, RunFolder
from .run_loaders import RunLoaders
from .sinks import CheckpointSink, MetricsSink, write_receipts
from .splits import validation_split
from .validate import check_data


class Run:
    """One training run. Iterating over it trains, and yields events.

        run = Run(RunConfig.from_preset("source", width=0.25), data="shards", out="runs/first")
        for event in run:
            ...

    It writes checkpoints, metrics.jsonl and report.html into its folder, and prints nothing.
    `Run.resume("runs/first")` continues a run that was stopped.
    """

    def __init__(
        self,
        config: RunConfig | None = None,
        data: str | Path = "shards",
        out: str | Path | None = None,
        *,
        ranks: Ranks | None = None,
        cache: dict[str, Any] | None = None,
        stop: Stop | None = None,
        resumed: bool = False,
        profile: bool = False,
        most_evaluated: int | None = None,
    ) -> None:
        """Build all that the first step needs; DataError or ValueError if that is impossible.

        config          RunConfig(): the preset "source"
        data            folder of shards, or grpc://HOST:PORT
        out             folder of the run; None: the next runs/<n>
        ranks           this process among its peers (`alexprep.model.distributed.joined`);
                        None: alone, on a GPU if there is one
        cache           LoaderConfig's `cache` and `cache_size`, for shards in an object store
        stop            object that asks the run to stop; `run.stop()` does so too
        resumed         whether the run in `out` continues (see `resume`)
        profile         whether torch's profile of steps 5 to 7 is written to profile.json
        most_evaluated  maximum batches of an evaluation; None: all
        """
        self.settings = RunConfig() if config is None else config
        self.ranks = this_process() if ranks is None else ranks
        self.data = data if isinstance(data, Path) else Path(data)
        self.manifest = check_data(self.data, self.settings, self.ranks.world_size)  # before a folder is made
        find = RunFolder.existing if resumed else RunFolder.new
        self.folder = RunFolder(Path(self.ranks.from_first(lambda: str(find(None if out is None else Path(out)).directory))))
        self._stop, self._resumed = Stop() if stop is None else stop, resumed
        self._profile, self._most_evaluated = profile, most_evaluated
        self._watchdog = Watchdog(self.settings.run.hang_seconds)
        self._synthetic = self.data == synthetic.NOWHERE
        self.stats = synthetic.stats(self.settings) if self._synthetic else load_stats(self.manifest)
        self._parts = build(self.settings, self.manifest, self.ranks)
        self.trainer = self._parts.trainer
        self._loaders = RunLoaders(self.data, self.settings, self.ranks, self._parts.layout.feed, cache or {})
        self._notices = [Notice(self._parts.note)] if self._parts.note else []
        self._metrics: MetricsSink | None = None  # on rank 0 only, while it trains
        self._checkpoints = CheckpointSink(self.folder, self.settings, self.manifest, self._notices)

    @classmethod
    def resume(cls, out: str | Path | None = None, data: str | Path | None = None, **changes: Any) -> "Run":  # noqa: ANN401  (settings)
        """Return the run in `out` (None: the newest in runs/), to continue from last.pt.

        data      folder of shards; None: the one it was trained on
        changes   settings that a resumed run may change, such as lr or steps; and `model`, if the run is of your own network

        DataError if there is no such run, or if its folder alone names the code that makes its network: such code is not run.
        ValueError for a setting that cannot change.
        """
        folder = RunFolder.existing(None if out is None else Path(out))
        start = folder.start()
        settings = resume_settings(folder.settings(), changes)
        own = settings.network.model
        if own != changes.get("model", ""):
            raise DataError(f"{folder.directory} is of the network {own}: give model={own!r} too, if you trust its code")
        return cls(settings, data or (start.data if start and start.data else "shards"), folder.directory, resumed=True)

    def __repr__(self) -> str:
        """Return the folder, the network and the steps taken."""
        network = self.settings.network.model or self.settings.network.preset
        return f"Run({str(self.folder.directory)!r}, network={network!r}, step={self.step:,} of {self.total:,})"

    @property
    def step(self) -> int:
        """Steps taken."""
        return self.trainer.step

    @property
    def total(self) -> int:
        """Steps of the whole run, unless an error or a plateau ends it earlier."""
        steps, whole = self.settings.trainer.steps, self.settings.trainer.epochs * self.trainer.epoch_steps
        return min(steps, whole) if steps else whole

    @property
    def stopped(self) -> bool:
        """Whether the run stopped on request before its end."""
        return self.trainer.stopped

    @property
    def validated_on(self) -> str | None:
        """The split that is validated on; None if there is none."""
        return validation_split(self.manifest)

    def stop(self) -> None:
        """Stop after the step under way, with a checkpoint."""
        self._stop.ask("stop()")

    def __iter__(self) -> Iterator[Event]:
        """Train to the end, evaluate with ten views and with one, and write the report.

        Yields every event. On request, the run stops after the step under way. TrainingError if the loss is not finite:
        the run's folder then has the state before that step and the receipts of its batch.
        """
        with self.folder.held() if self.ranks.first else nullcontext():
            if self._resumed:
                self._load()
            if self.ranks.first:
                self.folder.write_settings(self.settings)
            try:
                yield from self._train()
            finally:  # also when the loop is left in the middle
                self._watchdog.rest()
                self._checkpoints.settle()

    def _load(self) -> None:
        """Load the state of last.pt, if there is one."""
        path = self.folder.directory / LAST
        if not path.is_file():
            if (self.folder.directory / BEST).exists():
                raise DataError(f"{path} is gone, and with it the state to continue from; restore it, or start a new run in another --out")
            self._notices.append(Notice(f"{self.folder.directory} was stopped before its first checkpoint; it starts again at step 0"))
            return
        state = load_checkpoint(path)
        if state["plan"] != self.manifest.plan:
            raise DataError(f"{self.data} is not the data set that {self.folder.directory} was trained on; give that one")
        self.stats = checkpoint_stats(state)
        try:
            resume_settings(checkpoint_settings(state), self.settings.flat())
            self.trainer.load_state_dict(state)
        except Exception as error:  # a damaged file may raise anything
            raise DataError(f"{path} does not fit this run's config.toml, or it is damaged: {(str(error) or repr(error)).splitlines()[0]}") from error

    def _train(self) -> Iterator[Event]:
        self.ranks.check_same(f"plan {self.manifest.plan[:12]}, step {self.step}", "data set or checkpoint")
        yield from self._begin()
        self._watchdog.start()
        with profiling(self.folder.directory / "profile.json" if self._profile and self.ranks.first else None, self._tell) as profiled:
            try:
                self._stop.at_once = False
                for event in self.trainer.run(self._batches, self.evaluate, self._save, self._stop):
                    self._watchdog.alive()
                    profiled()
                    yield from self._logged(event)
            except NotFinite as error:
                raise TrainingError(self._keep_divergence(error)) from error
            finally:
                if self._metrics is not None:
                    self._metrics.flush()
            yield from self._closed()
            # barrier: a rank that exits before the checkpoint is written would end the others
            self.ranks.sum(torch.zeros(1, device=self.ranks.device))
            if not self.stopped:
                self._stop.at_once = True
                yield from self._finish()
            else:
                tell_launcher()
                yield Stopped(self.step, self._stop.name)
        yield from self._told()
        if self._metrics is not None:
            self._metrics.close()

    def _begin(self) -> Iterator[Event]:
        """Open rank 0's outputs, and yield the start event and its notices."""
        if self.ranks.first:
            self._metrics = MetricsSink(self.folder, self.settings)
            before = last_start(self.folder.rewind(self.step, self.trainer.validated))
            if self.step:
                self._tell(f"continuing {self.folder.directory} at step {self.step}")
                ranks, now = before.ranks if before else 1, self.ranks.world_size
                if ranks != now:
                    had = f"{ranks} rank{'s' if ranks > 1 else ''}"
                    self._tell(f"the run had {had} and continues on {now}: the same batches, but float32 sums are rounded differently")
            if not self.step:
                self.folder.keep_kernels(0, first_kernels(self._parts.whole.state_dict()))
        yield from self._logged(started(self.settings, self.data, self.manifest, self._parts, self.ranks, self.step))

    def _finish(self) -> Iterator[Event]:
        found = {views: self.predict(views) for views in VIEWS}
        weights = self.trainer.evaluated()  # collective: all ranks must call it
        for views, predictions in found.items():
            if predictions is not None:
                yield from self._logged(Measured(step=self.step, views=views, **asdict(predictions.evaluation())))
        report = None
        if self.ranks.first:
            split, ten = validation_split(self.manifest), found[10]
            if split is not None and ten is not None:
                facts = {"split": split, "views": 10, "plan": self.manifest.plan, "step": self.step}
                write_predictions(self.folder.directory / PREDICTIONS, ten, self._loaders.validation(split, 10, self.stats).records, facts)
            if not self._synthetic:
                self.folder.keep_kernels(self.step, first_kernels(weights), always=True)
                report = write_report([self.folder], self.folder.directory / REPORT)
        yield Finished(self.step, report)

    def _logged(self, event: RunEvent) -> Iterator[Event]:
        """Write an event on rank 0 and yield it, after pending notices."""
        if isinstance(event, StepLog):
            event = replace(event, batches_ready=self._loaders.ready)
        if self._metrics is not None and not isinstance(event, Tick):
            warning = self._metrics.write(event)
            if warning is not None:
                self._notices.append(warning)
        yield from self._told()
        yield event

    def _tell(self, text: str) -> None:
        self._notices.append(Notice(text))

    def _told(self) -> Iterator[Notice]:
        while self._notices:
            yield self._notices.pop(0)

    def _closed(self) -> Iterator[Notice]:
        """Wait for the last checkpoint; DataError, after the warnings, if it was not written."""
        try:
            self._checkpoints.close()
        except DataError:
            yield from self._told()
            raise

    def _keep_divergence(self, error: NotFinite) -> str:
        state = self.trainer.state_dict()  # collective: all ranks must call it
        if not self.ranks.first:
            return str(error)
        self._checkpoints.write("diverged", state, self.stats)
        loader = self._loaders.of_training
        return str(error) if loader is None else write_receipts(error, self.folder.directory, self.data, loader, self.stats)

    def evaluate(self) -> Evaluation | None:
        """Return the validation errors of the centre view; None without a split to validate on. All ranks must call it."""
        found = self.predict(1)
        return None if found is None else found.evaluation()

    def predict(self, views: int) -> Predictions | None:
        """Return the predictions for the validation images, with 1 or 10 views. None without a split to validate on. All ranks must call it."""
        split = validation_split(self.manifest)
        if split is None:
            return None
        parts = self._parts
        parts.layout.align(parts.model)
        if parts.whole is not parts.model:
            parts.whole.load_state_dict(self.trainer.evaluated())
        loader = self._loaders.validation(split, views, self.stats)
        return predict(outputs(parts.whole, self._watchdog.over(islice(loader, self._most_evaluated))), self.ranks)

    def _batches(self, step: int, colour: bool) -> Iterable[Any]:
        return self._loaders.training(step, self.trainer.epoch_steps, self.stats, colour=colour)

    def _save(self, name: str) -> None:
        state = self.trainer.state_dict()  # collective: all ranks must call it
        if self.ranks.first:
            self._checkpoints.submit(name, state, self.stats)
