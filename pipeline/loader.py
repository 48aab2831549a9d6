"""Yield batches of torch tensors from shards, or from `alexprep serve`.

In:  a folder or URI, a `LoaderConfig`.    Out: `Batch`es.

A batch is a pure function of (records, config, step), so the loader's state is one integer, the
step.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import torch

from .batches.cpu_engine import CpuEngine, as_tensor, recipe_of
from .batches.steps import StepSource, cache_for
from .batches.views import StepInput
from .config import LoaderConfig, LoaderOptions, check_known
from .errors import DataError, UndecodableImage
from .imaging.kernels import Recipe
from .serving.protocol import MOST_STEPS
from .shards.manifest import read_manifest
from .shards.reader import Records
from .shards.stats import Stats, stats_for
from .storage.trace import Trace, span
from .storage.uri import is_served


class Batch(NamedTuple):
    """One step's tensors, of b = batch_size / world_size records.

    The last batch of "center" and "ten" views may be smaller.
    """

    images: torch.Tensor  # the config's dtype; [b,3,crop,crop], or [b,10,3,crop,crop] for ten views
    labels: torch.Tensor  # int64[b]
    records: torch.Tensor  # int64[b], record numbers

    def __repr__(self) -> str:
        """Return dtypes and shapes; the tensors themselves would fill the screen."""
        parts = (f"{name}={str(value.dtype).removeprefix('torch.')}{list(value.shape)}" for name, value in self._asdict().items())
        return f"Batch({', '.join(parts)})"


class Loader:
    """Iterates over one epoch from the current step; the next `for` takes the next epoch.

        loader = Loader("shards/", split="train", batch_size=128, seed=0)
        for images, labels, records in loader: ...

    Options are the fields of `LoaderConfig`; `config` sets several at once. `stats` (mean image,
    colours) default to those of the folder's training split. `trace` records what each thread does
    when.

    Raises DataError if the data set is incomplete or a record is damaged, ValueError for an invalid
    option. After an error, the next batch is that of the same step. Threads that iterate at the
    same time share the batches: each batch goes to one of them. A forked process continues where
    its parent was, if the shards are on a local disk (the clients of object stores and services do
    not survive a fork).

    "grpc://host:port,host2:port" is a data set that `alexprep serve` serves there. The batches are
    the same; `form` says what the servers send.
    """

    def __init__(
        self,
        directory: str | Path,
        config: LoaderConfig | None = None,
        *,
        stats: Stats | None = None,
        trace: Trace | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        """Open the shards; nothing is decoded before the first step."""
        check_known(options)
        config = replace(config or LoaderConfig(), **options)
        manifest = read_manifest(directory)
        if config.crop > manifest.config.size:
            raise ValueError(f"crop {config.crop} does not fit into records of {manifest.config.size} pixels")
        if config.device == "gpu":
            from .batches.dali_engine import require_gpu  # late: only a GPU needs DALI

            require_gpu(config.device_id or 0)
            if not torch.cuda.is_available():
                raise DataError(f"there is a GPU, but this torch ({torch.__version__}) cannot use it: install one built for CUDA")
            config = replace(config, device_id=torch.cuda.current_device() if config.device_id is None else config.device_id)
        self.config = replace(config, threads=config.threads or len(os.sched_getaffinity(0)))
        served = is_served(manifest.directory)
        cache = None if served else cache_for(manifest, config)
        self.records = Records(manifest, config.split, cache=cache)
        theirs = stats_for(manifest, config.split) if served else None
        if stats is None and (config.mean != "none" or (config.view == "random" and config.colour)):
            stats = theirs or stats_for(manifest, config.split)
        if stats is not None and stats.mean_image.shape[0] != manifest.config.size:
            raise DataError(f"the mean image has {stats.mean_image.shape[0]} pixels a side; give stats of the records' size, {manifest.config.size}")
        self.stats = stats
        if theirs is not None:
            from .serving.remote_steps import RemoteStepSource  # late: only a service needs Flight

            self._source: StepSource = RemoteStepSource(manifest, self.config, stats or theirs, theirs, self.records)
        else:
            self._source = StepSource(manifest, self.config, stats, self.records, cache)
        self._step = 0
        self._trace = trace
        self._engine: Any = None
        self._engine_of = 0  # process that owns the engine's threads
        self._turn = threading.RLock()

    def __repr__(self) -> str:
        """Return the data set, the options that differ from the defaults, and where it is."""
        given = {name: value for name, value in vars(self.config).items() if value != getattr(LoaderConfig, name) and name != "threads"}
        options = "".join(f", {name}={value!r}" for name, value in given.items())
        place = f"{len(self.records):,} records, step {self._step:,}, {len(self):,} steps an epoch"
        return f"Loader({str(self.records.manifest.directory)!r}{options}): {place}"

    def __len__(self) -> int:
        """Return the number of steps per epoch."""
        return self._source.plan.steps

    def state_dict(self) -> dict[str, int]:
        """Return {"step": number of steps consumed since the start of epoch 0}."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at the step of `state`, which may come from another number of ranks. Raises ValueError if `state` is not the state of a loader."""
        step = state.get("step")
        if type(step) is not int or not 0 <= step < MOST_STEPS:
            raise ValueError(f"the state of a loader is {{'step': a whole number of steps}}, got {state!r}")
        with self._turn:
            if step != self._step:
                self._step = step
                self._stop()

    @property
    def ready(self) -> int | None:
        """Number of finished batches that wait to be taken, up to `prefetch`; None if unknown.

        If it is 0 again and again, the loader is the bottleneck.
        """
        return 0 if self._engine is None else self._engine.ready

    @property
    def substitutes(self) -> dict[int, int]:
        """Damaged records found so far, each with the record that replaces it."""
        return self._source.substitutes

    @property
    def recipe(self) -> Recipe:
        """The recipe by which the CPU makes views from records."""
        return recipe_of(self.config, self.records.manifest, self.stats)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch."""
        if len(self) == 0:
            return  # the evaluation split has fewer records than there are ranks
        epoch = self._step // len(self)
        while True:
            with self._turn:  # each batch goes to one thread only
                step = self._step
                if step // len(self) != epoch:
                    return
                with span(self._trace, "wait for the batch", step=step):
                    batch = self._next()
                self._step = step + 1
            with span(self._trace, "consumer", step=step):
                yield batch

    def _next(self) -> Batch:
        while True:
            # After a fork, the engine's threads exist in the parent only.
            if self._engine is None or self._engine_of != os.getpid():
                self._engine, self._engine_of = self._start(self._step), os.getpid()
            try:
                views, labels, records = self._engine.run()
                break
            except BaseException as error:
                self._stop()  # the engine may be a step ahead, and DALI's is unusable by now
                if not isinstance(error, RuntimeError | UndecodableImage):
                    raise
                self._source.mend(self._step, error)
        return Batch(views if self.config.layout == "CHW" else views.movedim(-1, -3), labels, records)

    def _start(self, step: int) -> Any:  # noqa: ANN401  (one of three engines)
        """Return an engine that makes the batches from `step` on."""
        steps = self._source
        steps.start(step)

        def source(i: int) -> StepInput:
            return steps(step + i)

        if steps.finished:
            return _Finished(self.config, steps, step)
        if self.config.device == "cpu":
            return CpuEngine(self.config, steps.manifest, self.stats, source, self._trace)
        from .batches.dali_engine import DaliEngine

        return DaliEngine(self.config, steps.manifest, self.stats, source)

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._source.stop()
        self._engine = None


class _Finished:
    """The engine for finished batches from servers: moves them to the device."""

    ready = None

    def __init__(self, config: LoaderConfig, steps: Any, step: int) -> None:  # noqa: ANN401  (RemoteStepSource, imported late)
        """Start at `step`."""
        self._config, self._source, self._next = config, steps, step

    def run(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (views, labels, record numbers) of the next step, on the config's device."""
        numbers, labels, views = self._source.take(self._next)
        self._next += 1
        views, labels, numbers = as_tensor(views, self._config.dtype), torch.from_numpy(labels), torch.from_numpy(numbers)
        if self._config.device == "cpu":
            return views, labels, numbers
        device = torch.device("cuda", self._config.device_id or 0)
        return views.to(device), labels.to(device), numbers.to(device)

    def close(self) -> None:
        """Do nothing: the loader stops the step source."""
