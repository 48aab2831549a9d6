"""Find what limits a loader on this machine.

In:  records and a `LoaderConfig`.
Out: the rate of each stage alone, and a sentence that says which one binds.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..batches.augment import draws
from ..config import LoaderConfig
from ..imaging import kernels
from ..shards.reader import Records

SAMPLE = 256  # records used to measure decoding and augmenting; too many for any processor's cache
BLOCK = 4 << 20  # bytes per read from storage
# Share of a ceiling above which (UNSTEADY), or below which (HARDLY), the ceiling explains nothing.
UNSTEADY, HARDLY = 1.1, 0.4
MOST_READ = 1 << 30  # bytes read from storage, about, at most


@dataclass(frozen=True)
class Stage:
    """The rate of one stage alone, with all threads of the loader."""

    name: str
    rate: float  # images/s
    note: str = ""


def storage(records: Records, seconds: float) -> Stage:
    """Measure reading shards from the disk in large pieces. The system is asked to drop them from its cache first."""
    read, start = 0, time.perf_counter()
    for piece in _pieces(records):
        read += piece
        if read > MOST_READ or time.perf_counter() - start > seconds:
            break
    rate = read / (time.perf_counter() - start)
    each = sum(shard.bytes for shard in records.shards) / len(records)
    return Stage("storage", rate / each, f"{rate / 1e6:,.0f} MB/s")


def _pieces(records: Records) -> Iterator[int]:
    """Read the shards piece by piece; yield the length of each."""
    for shard in records.shards:
        with open(records.manifest.directory / shard.file, "rb", buffering=0) as file:  # noqa: PTH123  (open() refuses a RemotePath)
            if hasattr(os, "posix_fadvise"):
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while piece := file.read(BLOCK):
                yield len(piece)


def decoding(records: Records, config: LoaderConfig, seconds: float) -> Stage:
    """Measure decoding of JPEG records, each only in the region that its view needs."""
    numbers = np.arange(min(SAMPLE, len(records)))
    images = [records.image(int(number)).tobytes() for number in numbers]
    drawn = draws(config.seed, 0, numbers, records.manifest.config.size - config.crop)
    corners = list(zip(drawn.left.tolist(), drawn.top.tolist(), strict=True))

    def decode(i: int) -> None:
        left, top = corners[i]
        if kernels.decode_region(images[i], (left, top, left + config.crop, top + config.crop)) is None:
            records.pixels(i)  # raises DataError that names the record

    return Stage("decoding", _rate(decode, len(images), config.threads or 1, seconds), "only the region that a view needs")


def augmenting(records: Records, recipe: kernels.Recipe, config: LoaderConfig, seconds: float) -> Stage:
    """Measure making views of pixels in memory: mean, crop, mirror, colour, conversion."""
    count, threads = min(SAMPLE, len(records)), config.threads or 1
    pixels = [records.pixels(number) for number in range(count)]
    drawn = draws(config.seed, 0, np.arange(count), records.manifest.config.size - config.crop)
    placed = np.stack([drawn.top, drawn.left, drawn.flip], 1).astype(np.int32)[:, None].repeat(recipe.views, 1)
    offsets = np.zeros((count, 3), np.float32)
    shape = (3, recipe.crop, recipe.crop) if recipe.planes else (recipe.crop, recipe.crop, 3)
    out = np.zeros((count, recipe.views, *shape), np.float32 if recipe.kind == 0 else np.uint16)
    ends = np.linspace(0, count, min(count, 8 * threads) + 1).astype(int).tolist()
    parts = list(pairwise(ends))

    def augment(i: int) -> None:
        low, high = parts[i]
        kernels.render(pixels, True, placed, offsets, out, recipe, low, high - low)  # noqa: FBT003  (the pixels are raw)

    return Stage("augmenting", _rate(augment, len(parts), threads, seconds) * count / len(parts), "mean, crop, mirror, colour, conversion")


def _rate(work: Callable[[int], Any], count: int, threads: int, seconds: float) -> float:
    """Return the calls per second of work(0), ..., work(count - 1) on `threads` threads."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(count)))  # warm-up
        rounds, start = 0, time.perf_counter()
        while rounds == 0 or time.perf_counter() - start < seconds:
            list(pool.map(work, range(count)))
            rounds += 1
        return rounds * count / (time.perf_counter() - start)


@dataclass(frozen=True)
class Setup:
    """The facts that the advice depends on."""

    threads: int
    cpus: int
    dtype: str = "float32"
    raw_size: float = 1.0  # bytes of a raw record divided by those of a stored one


def verdict(stages: dict[str, float], loader: float, setup: Setup) -> str:
    """Return a sentence: which stage binds, the loader's share of that ceiling, what would help.

    Decoding and augmenting share the threads, so their times add up; the other stages run in parallel. `stages` has the
    rate of each stage alone, and `loader` that of the whole, in images/s.
    """
    consumer = stages.get("the consumer")
    if consumer is not None and consumer < loader:
        times = f"{loader / consumer:.1f} times as many"
        return f"The consumer binds: it takes {consumer:,.0f} images/s, and the loader makes {times}; a faster loader would change nothing."
    made = [stages[name] for name in ("decoding", "augmenting") if name in stages]
    ceilings = {"the processor": 1 / sum(1 / rate for rate in made)}
    ceilings |= {name: stages[name] for name in ("storage", "host to device") if name in stages}
    remark = ""
    if ceilings["storage"] < loader:
        remark = f" That is with the shards in memory: read from the disk, storage would bind at {ceilings.pop('storage'):,.0f}."
    binding = min(ceilings, key=lambda name: ceilings[name])
    part = loader / ceilings[binding]
    share = f"{loader:,.0f} images/s are {part:.0%} of the {ceilings[binding]:,.0f} that {binding} allows"
    if part > UNSTEADY:
        return f"The machine was busier while the stages were measured than later: {share}; measure again, with a longer --seconds.{remark}"
    if part < HARDLY:
        return f"None of the stages binds: {share}; the rest is spent on each batch: try a larger --batch-size.{remark}"
    return f"{binding.capitalize()} binds: {share}; {next(_advice(binding, stages, setup))}{remark}"


def _advice(binding: str, stages: dict[str, float], setup: Setup) -> Iterator[str]:
    """Yield remedies, the best first."""
    jpeg, size = "decoding" in stages, f"{setup.raw_size:.1f} times"
    if binding == "storage":
        smaller = "" if jpeg else ", and JPEG records are a fifth as large"
        yield f"--shuffle block reads in large runs{smaller}; else use a faster disk, or enough memory for all shards."
    if binding == "host to device" and not jpeg:
        yield "JPEG records would copy a fifth of the bytes of raw ones."
    if setup.threads < setup.cpus:
        yield f"--threads {setup.cpus} would use all CPUs."
    if jpeg and stages["decoding"] < stages["augmenting"]:
        allowed = f"{stages['augmenting']:,.0f} at the very most"
        yield f"most of it is decoding: raw records (alexprep shard --encoding raw) would allow {allowed}, for {size} the space."
    yield f"{'--dtype bfloat16 writes half as much; then ' if setup.dtype == 'float32' else ''}only more CPUs help, or a GPU."


def stages_of(records: Records, recipe: kernels.Recipe, config: LoaderConfig, seconds: float) -> Iterator[Stage]:
    """Measure the stages one after the other, and yield each."""
    yield storage(records, seconds)
    if records.manifest.config.encoding == "jpeg":
        yield decoding(records, config, seconds)
    yield augmenting(records, recipe, config, seconds)
