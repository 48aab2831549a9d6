"""Make the input of each step for an engine: its records and its draws.

In:  mapped shards.    Out: a `StepInput` per step, or a part of one.

It is a pure function of (records, config, step).
"""

import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ..config import LoaderConfig
from ..errors import DataError
from ..shards.cache import ShardCache
from ..shards.manifest import Manifest
from ..shards.reader import SEARCH, Records
from ..shards.stats import Stats
from ..storage.uri import RemotePath
from .augment import colour_shift, draws
from .sampler import BLOCK, POOL, Sampler
from .views import StepInput

UNMAP_STEPS = 4  # steps between releases of the memory of mapped records


class DamagedRecord(UserWarning):
    """A record is damaged, and another one replaces it."""


class StepSource:
    """Yields the step inputs of one rank, read from shards."""

    finished = False  # whether it returns finished views, for which no engine is needed

    def __init__(self, manifest: Manifest, config: LoaderConfig, stats: Stats | None, records: Records, cache: ShardCache | None = None) -> None:
        """Take the split's records; `cache` keeps the shards if they come from an object store."""
        self.tell: Callable[[str], None] = _warn  # reports damaged records
        self.manifest, self.records, self.plan = manifest, records, Sampler.of(len(records), config)
        self.substitutes: dict[int, int] = {}  # damaged record found so far -> its substitute
        self._config, self._stats, self._cache = config, stats, cache
        self._room = manifest.config.size - config.crop
        self._read_ahead: tuple[int, set[int]] = (-1, set())  # epoch, its blocks requested so far
        self._tried_again = -1  # last step that was retried after an error without a damaged record
        if cache is not None:
            weakref.finalize(self, cache.close).atexit = False  # cancels unfinished downloads

    def start(self, _step: int) -> None:
        """Restart reading ahead: `_step` comes next."""
        self._read_ahead = (-1, set())

    def stop(self) -> None:
        """Do nothing; `RemoteStepSource` drops its pending requests."""

    def __call__(self, step: int) -> StepInput:
        """Return the input of `step`: records as views into the mapped shards, and their draws."""
        if self._cache is not None or self.plan.shuffle == "block":
            self._read_blocks_ahead(step)
        if step % UNMAP_STEPS == 0:
            self.records.unmap()
        epoch, numbers = self.plan(step)
        return self.read(epoch, numbers)

    def read(self, epoch: int, numbers: Int64[np.ndarray, "b"]) -> StepInput:
        """Return the input for these records in `epoch`."""
        return self.drawn(epoch, self.stored(numbers))

    def stored(self, numbers: Int64[np.ndarray, "b"]) -> StepInput:
        """Return these records without draws."""
        numbers = self.substituted(numbers)
        images, labels = self.records.several(numbers)
        return StepInput(images, labels, numbers, np.zeros((len(numbers), 3), np.float32), None)

    def substituted(self, numbers: Int64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """Return `numbers` with known damaged records replaced by their substitutes."""
        return np.array([self.substitutes.get(number, number) for number in numbers.tolist()], np.int64) if self.substitutes else numbers

    def drawn(self, epoch: int, inputs: StepInput) -> StepInput:
        """Return `inputs` with its draws added, if its views are random."""
        config = self._config
        if config.view != "random":
            return inputs
        drawn = draws(config.seed, epoch, inputs.records, self._room, mirror=config.mirror)
        shift = inputs.shift
        if config.colour and self._stats is not None:
            shift = colour_shift(drawn.alpha, config.colour, self._stats.colours.eigenvalues, self._stats.colours.eigenvectors)
        return inputs._replace(shift=shift, windows=(drawn.top, drawn.left, drawn.flip))

    def mend(self, step: int, error: Exception) -> None:
        """Find substitutes for the damaged records of a step that failed with `error`.

        If none is damaged, the step is retried once; `error` is raised the second time. Raises
        DataError that names the damaged records unless they may be replaced.
        """
        damaged = {number: reason for number in self.plan(step)[1].tolist() if (reason := self.records.damage(self.substitutes.get(number, number)))}
        if damaged:
            self.replace(damaged, error)
            return
        if self._tried_again == step:
            raise error
        self._tried_again = step  # perhaps a bad file in the cache, which is deleted by now

    def replace(self, damaged: dict[int, str], error: Exception) -> None:
        """Choose a substitute for each of `damaged` (record -> reason).

        Raises DataError that names the records if `on_bad` is "raise", or one of them if none of
        the next SEARCH records is good.
        """
        if self._config.on_bad == "raise":
            raise DataError("damaged records; alexprep repair makes their shards again:\n  " + "\n  ".join(damaged.values())) from error
        for number, reason in damaged.items():
            good = self.records.substitute(number)
            if good is None:
                raise DataError(f"damaged records, {SEARCH} in a row; alexprep repair makes their shards again:\n  {reason}") from error
            self.substitutes[number] = good
            self.tell(f"record {good} is given instead of a damaged one: {reason}")

    def _read_blocks_ahead(self, step: int) -> None:
        """Ask the system to read ahead the blocks of the next POOL * BLOCK records of the order.

        Each block is requested once per epoch, in one run.
        """
        due = step + POOL * BLOCK // self._config.batch_size
        for later in range(step if self._read_ahead[0] < 0 else due, due + 1):
            epoch, numbers = self.plan(later)
            if self._read_ahead[0] != epoch:
                self._read_ahead = (epoch, set())
            asked = self._read_ahead[1]
            for block in sorted({number // BLOCK for number in numbers.tolist()} - asked):
                self.records.read_ahead(block * BLOCK, BLOCK)
                asked.add(block)


def _warn(text: str) -> None:
    warnings.warn(text, DamagedRecord, stacklevel=6)


def cache_for(manifest: Manifest, config: LoaderConfig) -> ShardCache | None:
    """Return the local cache for the shards of an object store; None for shards in a local folder.

    Raises DataError if the config names no cache, or it is too small.
    """
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
        # Shards needed at a time; a block may lie in two shards.
        due = 2 * POOL if block else POOL * BLOCK * len(split.shards) // split.records + 2
        least = 2 * due * largest  # half of it in use, half of it fetched ahead
        if config.cache_size < min(least, total):
            raise DataError(
                f"the cache of {config.cache_size:,} bytes is too small for shards of up to {largest:,}: it needs {min(least, total):,}; or make "
                "smaller shards (alexprep shard --records-per-shard)"
            )
    return ShardCache(Path(config.cache), config.cache_size)
