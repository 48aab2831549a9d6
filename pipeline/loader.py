"""Batches of torch tensors. Each is a pure function of (records, config, step); the loader's state is that step, one integer."""

import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .augment import colour_shift, draws
from .cache import ShardCache
from .config import LoaderConfig
from .cpu import CpuEngine, recipe_of
from .errors import DataError, UndecodableImage
from .kernels import Recipe
from .manifest import Manifest, read_manifest
from .order import BLOCK, POOL, Plan
from .records import SEARCH, Records
from .remote import RemotePath
from .stats import Stats, stats_for
from .tracing import Trace, span
from .views import Feed

MOST_STEPS = 1 << 62  # more than any run has; epochs of it fit into 64 bits
UNMAP_STEPS = 4  # the memory of so many steps' records may pile up before it is given back


class DamagedRecord(UserWarning):
    """A record is damaged, and another one was given in its place."""


class Batch(NamedTuple):
    """What a step yields; b = batch_size / world_size (the last batch of "center" and "ten" views may be smaller)."""

    images: torch.Tensor  # of the config's dtype; [b,3,crop,crop], for ten views [b,10,3,crop,crop]
    labels: torch.Tensor  # int64[b]
    records: torch.Tensor  # int64[b], the record numbers


class Loader:
    """Iterates over one epoch from the current step; the next `for` goes on with the next epoch.

        loader = Loader("shards/", split="train", batch_size=128, seed=0)
        for images, labels, records in loader: ...

    Options are the fields of `LoaderConfig`; `config` gives many at once. `stats` (mean image, colours) default to those of
    the folder's training split; `trace` records what each thread does when. Raises DataError if the folder is not a whole
    data set or a record is damaged, ValueError for an option that cannot be. After an error, the next batch is that of the same
    step; threads that iterate at once share the batches; a forked process goes on where its parent was, if the
    shards are on a local disk (the clients of object stores do not survive a fork).
    """

    def __init__(
        self,
        directory: str | Path,
        config: LoaderConfig | None = None,
        *,
        stats: Stats | None = None,
        trace: Trace | None = None,
        **options: Any,  # noqa: ANN401  (fields of LoaderConfig)
    ) -> None:
        """Open the shards; nothing is decoded before the first step."""
        config = replace(config or LoaderConfig(), **options)
        manifest = read_manifest(directory)
        if config.crop > manifest.config.size:
            raise ValueError(f"crop {config.crop} does not fit into records of {manifest.config.size} pixels")
        if config.device == "gpu":
            from .graph import require_gpu  # only a GPU needs DALI

            require_gpu(config.device_id or 0)
            if not torch.cuda.is_available():
                raise DataError(f"there is a GPU, but this torch ({torch.__version__}) cannot use it: install one built for CUDA")
            config = replace(config, device_id=torch.cuda.current_device() if config.device_id is None else config.device_id)
        self.config = replace(config, threads=config.threads or len(os.sched_getaffinity(0)))
        self._cache = _cache(manifest, config)
        self.records = Records(manifest, config.split, cache=self._cache)
        self._random = config.view == "random"
        if stats is None and (config.mean != "none" or (self._random and config.colour)):
            stats = stats_for(manifest, config.split)
        if stats is not None and stats.mean_image.shape[0] != manifest.config.size:
            raise DataError(f"the mean image is of {stats.mean_image.shape[0]} pixels a side, the records of {manifest.config.size}")
        self.stats = stats
        self._plan = Plan.of(len(self.records), config)
        self._step = 0
        self._trace = trace
        self._engine: Any = None
        self._engine_of = 0  # the process whose threads it has
        self._tried_again = -1  # the step that was tried again after an error that nothing explains
        self._turn = threading.RLock()
        if self._cache is not None:
            weakref.finalize(self, self._cache.close).atexit = False  # what it still downloads is not wanted any more
        self.substitutes: dict[int, int] = {}  # damaged records met so far, and what is given instead
        self._read_ahead: tuple[int, set[int]] = (-1, set())  # epoch, and blocks that the system was asked for

    def __len__(self) -> int:
        """Return the steps an epoch."""
        return self._plan.steps

    def state_dict(self) -> dict[str, int]:
        """Return {"step": steps consumed since the start of epoch 0}."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at that step, whatever the number of ranks was; ValueError if it is no state of a loader."""
        step = state.get("step")
        if type(step) is not int or not 0 <= step < MOST_STEPS:
            raise ValueError(f"the state of a loader is {{'step': a whole number of steps}}, got {state!r}")
        with self._turn:
            if step != self._step:
                self._step = step
                self._stop()

    @property
    def ready(self) -> int | None:
        """Batches that are made and wait to be taken, up to `prefetch`; None where that is not known.

        0 again and again means that the loader is what is waited for.
        """
        return 0 if self._engine is None else self._engine.ready

    @property
    def recipe(self) -> Recipe:
        """How its records become views on a CPU."""
        return recipe_of(self.config, self.records.manifest, self.stats)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the rest of the current epoch."""
        if len(self) == 0:
            return  # an evaluation split of fewer records than ranks
        epoch = self._step // len(self)
        while True:
            with self._turn:  # of several threads, each gets batches that no other one gets
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
            if self._engine is None or self._engine_of != os.getpid():  # after a fork its threads are the parent's
                self._engine, self._engine_of = self._start(self._step), os.getpid()
            try:
                views, labels, records = self._engine.run()
                break
            except BaseException as error:
                self._stop()  # it may be a step further, and DALI's is unusable
                if not isinstance(error, RuntimeError | UndecodableImage):
                    raise
                self._mend(error)
        return Batch(views if self.config.layout == "CHW" else views.movedim(-1, -3), labels, records)

    def _start(self, step: int) -> Any:  # noqa: ANN401  (one of two engines)
        """Return what makes the batches, from `step` on."""
        self._read_ahead = (-1, set())

        feed = weakref.WeakMethod(self._feed)  # in a circle with the engine, neither would be freed before the garbage collector's turn

        def source(i: int) -> Feed:
            alive = feed()
            assert alive is not None  # it is the loader that runs the engine
            return alive(step + i)

        if self.config.device == "cpu":
            return CpuEngine(self.config, self.records.manifest, self.stats, source, self._trace)
        from .graph import DaliEngine

        return DaliEngine(self.config, self.records.manifest, self.stats, source)

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def _feed(self, step: int) -> Feed:
        """Return what an engine is given for `step`: views into the mapped shards, and this step's draws."""
        epoch, numbers = self._plan(step)
        if self._cache is not None or self._plan.shuffle == "block":
            self._read_blocks_ahead(step)
        if step % UNMAP_STEPS == 0:
            self.records.unmap()
        if self.substitutes:
            numbers = np.array([self.substitutes.get(number, number) for number in numbers.tolist()])
        count = len(numbers)
        images = [self.records.image(number) for number in numbers.tolist()]
        labels = self.records.labels(numbers)
        shift = np.zeros((count, 3), np.float32)
        if not self._random:
            return Feed(images, labels, numbers, shift, None)
        drawn = draws(self.config.seed, epoch, numbers, self.records.manifest.config.size - self.config.crop, mirror=self.config.mirror)
        if self.config.colour and self.stats is not None:
            shift = colour_shift(drawn.alpha, self.config.colour, self.stats.colours.eigenvalues, self.stats.colours.eigenvectors)
        return Feed(images, labels, numbers, shift, (drawn.top, drawn.left, drawn.flip))

    def _read_blocks_ahead(self, step: int) -> None:
        """Have the system read the blocks that are due within a pool of records from now, each once an epoch and in one run."""
        due = step + POOL * BLOCK // self.config.batch_size
        for later in range(step if self._read_ahead[0] < 0 else due, due + 1):
            epoch, numbers = self._plan(later)
            if self._read_ahead[0] != epoch:
                self._read_ahead = (epoch, set())
            asked = self._read_ahead[1]
            for block in sorted({number // BLOCK for number in numbers.tolist()} - asked):
                self.records.read_ahead(block * BLOCK, BLOCK)
                asked.add(block)

    def _mend(self, error: Exception) -> None:
        """Find substitutes for the damaged records of the current step; raise what names them if that is not wanted, or `error` if there are none."""
        damaged = {
            number: reason for number in self._plan(self._step)[1].tolist() if (reason := self.records.damage(self.substitutes.get(number, number)))
        }
        if not damaged:
            if self._tried_again == self._step:
                raise error
            self._tried_again = self._step  # it has passed: a bad file in a cache, which is gone now
            return
        if self.config.on_bad == "raise":
            raise DataError("damaged records; alexprep repair makes their shards again:\n  " + "\n  ".join(damaged.values())) from error
        for number, reason in damaged.items():
            good = self.records.substitute(number)
            if good is None:
                raise DataError(f"damaged records, {SEARCH} in a row; alexprep repair makes their shards again:\n  {reason}") from error
            self.substitutes[number] = good
            warnings.warn(f"record {good} is given instead of a damaged one: {reason}", DamagedRecord, stacklevel=4)


def _cache(manifest: Manifest, config: LoaderConfig) -> ShardCache | None:
    """Return where the shards of an object store are kept; DataError if there is no such place, or not enough of it."""
    if not isinstance(manifest.directory, RemotePath):
        return None
    if config.cache is None:
        raise DataError(f"{manifest.directory} is read through a cache on a local disk: give cache=FOLDER (--cache)")
    split, random = manifest.split(config.split), config.view == "random"
    total, largest = split.bytes, max((shard.bytes for shard in split.shards), default=0)
    if config.cache_size < total:
        if random and config.shuffle == "full":
            raise DataError(
                f"the cache of {config.cache_size:,} bytes must hold all {total:,} of {config.split}, since every batch takes records from all "
                'shards; or use shuffle="block" (--shuffle block)'
            )
        block = random and config.shuffle == "block"
        due = 2 * POOL if block else POOL * BLOCK * len(split.shards) // split.records + 2  # a block may lie in two shards
        least = 2 * due * largest  # half of it in use, half of it fetched ahead
        if config.cache_size < min(least, total):
            raise DataError(
                f"the cache of {config.cache_size:,} bytes is too small for shards of up to {largest:,}: it needs {min(least, total):,}; or make "
                "smaller shards (alexprep shard --records-per-shard)"
            )
    return ShardCache(Path(config.cache), config.cache_size)
