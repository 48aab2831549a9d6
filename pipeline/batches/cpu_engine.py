"""Make batches on the CPU, with compiled code on a few threads, some steps ahead of the consumer.

In:  a `StepInput` per step.    Out: tensors (views, labels, record numbers).

Each thread makes a share of a batch and releases the GIL until that share is done. A record is
decoded only where its view lies, then mean, colour and conversion are applied row by row into the
batch. `plain_views` computes the same in numpy; it is used without the compiled extension, and for
a JPEG that the extension does not decode (not a baseline JPEG in good order).
"""

import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32, Shaped, UInt8

from ..config import Dtype, LoaderConfig
from ..errors import DataError
from ..imaging.codec import decode_record
from ..imaging.kernels import NUMBERS, Recipe, render
from ..shards.manifest import Manifest
from ..shards.stats import Stats
from ..storage.trace import Trace, span
from .views import StepInput, center_mean, channel_mean, divisor, mean_image, windows

# Alignment of batches, bytes (a cache line): it lets native/views.h write past the caches.
LINE = 64
# numpy has no bfloat16: its bits are kept as uint16.
DTYPES = {"float32": np.float32, "bfloat16": np.uint16, "float16": np.float16}


@dataclass
class _Step:
    """A batch in progress, shared among the threads."""

    inputs: StepInput
    windows: Int32[np.ndarray, "b v 3"]
    offsets: Float32[np.ndarray, "b 3"]
    views: Any  # the output array, of any dtype
    shares: list[Future[None]] = field(default_factory=list)


class ViewMaker:
    """Makes the views of a `StepInput` in the calling thread."""

    def __init__(self, config: LoaderConfig, manifest: Manifest, stats: Stats | None) -> None:
        """Prepare the constants of the views: recipe, channel mean, fixed windows."""
        self._raw, self._dtype = manifest.config.encoding == "raw", DTYPES[config.dtype]
        self._fixed = [] if config.view == "random" else windows(config.view, manifest.config.size - config.crop)
        self._channel = channel_mean(config, stats)
        self._recipe = recipe_of(config, manifest, stats)

    def begin(self, inputs: StepInput, lease: Callable[[tuple[int, ...], Any], Any] = np.empty) -> _Step:
        """Return the step with an empty array for its views; `lease(shape, dtype)` allocates it."""
        count, recipe = len(inputs.images), self._recipe
        placed = np.array([self._fixed] * count, np.int32) if inputs.windows is None else np.stack(inputs.windows, 1).astype(np.int32)[:, None]
        shape = (3, recipe.crop, recipe.crop) if recipe.planes else (recipe.crop, recipe.crop, 3)
        return _Step(inputs, placed, self._channel - inputs.shift, lease((count, recipe.views, *shape), self._dtype))

    def make(self, step: _Step, low: int, count: int) -> None:
        """Make the views of `count` records, starting at record `low`."""
        size, images = self._recipe.size, step.inputs.images
        for i in render(images, self._raw, step.windows, step.offsets, step.views, self._recipe, low, count):
            pixels = images[i] if self._raw else decode_record(images[i], size)
            plain_views(pixels, step.windows[i], step.offsets[i], self._recipe, step.views[i])

    def views(self, inputs: StepInput) -> Shaped[np.ndarray, "b v ..."]:
        """Return the views of all records, made in this thread; bfloat16 as uint16."""
        step = self.begin(inputs)
        self.make(step, 0, len(inputs.images))
        return step.views


class CpuEngine:
    """Makes batches in step order, on a thread pool."""

    def __init__(
        self, config: LoaderConfig, manifest: Manifest, stats: Stats | None, source: Callable[[int], StepInput], trace: Trace | None = None
    ) -> None:
        """Read the inputs of steps 0, 1, ... from `source`; record the threads' work in `trace`."""
        self._source, self._config, self._trace = source, config, trace
        self._threads = config.threads or 1
        self._maker = ViewMaker(config, manifest, stats)
        self._pool = ThreadPoolExecutor(self._threads, "alexprep")
        self._memory = BufferPool(config.prefetch + 3)
        self._ahead: deque[_Step | DataError] = deque()
        self._next = 0

    def run(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (views, labels, record numbers) of the next step. Raises UndecodableImage for a damaged record, DataError for a damaged shard."""
        while len(self._ahead) <= self._config.prefetch:
            self._ahead.append(self._begin(self._next))
            self._next += 1
        step = self._ahead.popleft()
        if isinstance(step, DataError):
            raise step
        for share in step.shares:
            share.result()
        views = as_tensor(step.views, self._config.dtype)
        return views if self._config.view == "ten" else views[:, 0], torch.from_numpy(step.inputs.labels), torch.from_numpy(step.inputs.records)

    @property
    def ready(self) -> int:
        """Finished batches that have not been taken yet."""
        steps = (step for step in self._ahead if isinstance(step, _Step))
        return sum(all(share.done() for share in step.shares) for step in steps)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, number: int) -> _Step | DataError:
        try:
            inputs = self._source(number)
        except DataError as error:
            return error  # `run` raises it when it reaches this step
        count, step = len(inputs.images), self._maker.begin(inputs, self._memory.lease)
        ends = np.linspace(0, count, min(count, 2 * self._threads) + 1).astype(int).tolist()
        step.shares = [self._pool.submit(self._share, step, low, high - low) for low, high in pairwise(ends)]
        return step

    def _share(self, step: _Step, low: int, count: int) -> None:
        with span(self._trace, "views", records=count):
            self._maker.make(step, low, count)


def as_tensor(views: Any, dtype: Dtype) -> torch.Tensor:  # noqa: ANN401  (an array of any type)
    """Return views as a tensor that keeps the array alive, so that `BufferPool` cannot reuse it."""
    tensor = torch.from_numpy(views)
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


def recipe_of(config: LoaderConfig, manifest: Manifest, stats: Stats | None) -> Recipe:
    """Return the recipe by which `render` makes the views of `config` from records."""
    size, crop, planes = manifest.config.size, config.crop, config.layout == "CHW"
    before = laid_out(mean_image(stats), planes) if config.mean == "pixel" else None
    after = laid_out(center_mean(stats, crop, divisor(config)), planes) if config.mean == "center" else None
    views = 1 if config.view == "random" else len(windows(config.view, size - crop))
    scale = float(np.float32(1) / np.float32(divisor(config)))
    return Recipe(size, crop, views, planes, NUMBERS.index(config.dtype), scale, before, after)


def laid_out(image: Float32[np.ndarray, "h w 3"], planes: bool) -> Float32[np.ndarray, "..."]:  # noqa: FBT001  (a fact of the views)
    """Return a mean image as `Recipe` expects it: [3,h,w] if `planes`, else [h,w,4]. The fourth number of a pixel is padding."""
    return np.ascontiguousarray(image.transpose(2, 0, 1)) if planes else np.pad(image, ((0, 0), (0, 0), (0, 1)))


def plain_views(
    pixels: UInt8[np.ndarray, "s s 3"],
    placed: Int32[np.ndarray, "v 3"],
    offset: Float32[np.ndarray, "3"],
    recipe: Recipe,
    out: Any,  # noqa: ANN401
) -> None:
    """Write the views of one record to `out`; equals `render` bit for bit."""
    before, after = (mean if mean is None or not recipe.planes else mean.transpose(1, 2, 0) for mean in (recipe.before, recipe.after))
    whole = pixels.astype(np.float32)
    if before is not None:
        whole = whole - before[:, :, :3]
    for view, (top, left, flip) in zip(out, placed.tolist(), strict=True):
        part = whole[top : top + recipe.crop, left : left + recipe.crop]
        part = ((part[:, ::-1] if flip else part) - offset) * np.float32(recipe.scale)
        if after is not None:
            part = part - after[:, :, :3]
        part = part.transpose(2, 0, 1) if recipe.planes else part
        view[...] = torch.from_numpy(np.ascontiguousarray(part)).bfloat16().view(torch.uint16).numpy() if view.dtype == np.uint16 else part


class BufferPool:
    """Reuses the memory of freed batches: fresh pages cost as much time as the conversion."""

    def __init__(self, keep: int) -> None:
        """Keep at most `keep` free blocks."""
        self._keep, self._free = keep, deque[Any]()

    def lease(self, shape: tuple[int, ...], dtype: Any) -> Any:  # noqa: ANN401  (an array of any type)
        """Return an uninitialised array, aligned to `LINE`.

        Its memory returns to the pool when the array object itself is freed; views of it do not keep it.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = self._take(size)
        if block is None:
            whole = np.empty(size + LINE, np.uint8)
            start = -whole.ctypes.data % LINE
            block = whole[start : start + size]
        array = block[:size].view(dtype).reshape(shape)
        weakref.finalize(array, self._take_back, block).atexit = False
        return array

    def _take(self, size: int) -> Any:  # noqa: ANN401
        """Return a free block of at least `size` bytes, None if there is none; thread-safe."""
        for _ in range(len(self._free)):
            try:
                block = self._free.popleft()
            except IndexError:  # another thread took the last block
                return None
            if len(block) >= size:
                return block
            self._free.append(block)
        return None

    def _take_back(self, block: Any) -> None:  # noqa: ANN401
        if len(self._free) < self._keep:
            self._free.append(block)
