"""Compiled CPU kernels for the memory-bound parts of a training step, each in one pass.

If they could not be built, and on other devices, PyTorch is used: `layers.plain_norm`,
`layers.plain_within` and `optimizer.plain_update` compute the same. Tests compare the two.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def _load() -> Any:  # noqa: ANN401  (a module, compiled from native/)
    try:
        return import_module("._kernels", __package__)
    except ImportError:  # the package was installed without a compiler
        return None


_kernels = _load()
_KINDS = (torch.float32, torch.bfloat16)  # in the order of the enum in native/kernels.c
_MOST_MAPS = 4096  # per tower; MOST in native/kernels.c
_SHARE = 1 << 16  # numbers per thread; with fewer, another thread costs more than it saves


def takes(x: Tensor, towers: int) -> bool:
    """Tell whether the compiled kernels support the device, dtype and maps per tower of `x`."""
    return _kernels is not None and x.device.type == "cpu" and x.dtype in _KINDS and x.shape[1] // towers <= _MOST_MAPS


def normalise(
    x: Float[Tensor, "b c h w"], towers: int, alpha: float, k: float, grad: Float[Tensor, "b c h w"] | None = None
) -> Float[Tensor, "b c h w"]:
    """Return `layers.plain_norm` of x; with `grad`, that result's gradient, return x's gradient.

    `takes` must be true for x. Computed in float32, rounded at the end.
    """
    facts = (x.shape[1] // towers, towers, alpha, k, _KINDS.index(x.dtype))
    return _mapped(lambda *of: _kernels.normalise(*of[:3], *facts, *of[3:]), x, grad, x.numel() // x.shape[1])


def normalise_within(x: Float[Tensor, "b c h w"], alpha: float, grad: Float[Tensor, "b c h w"] | None = None) -> Float[Tensor, "b c h w"]:
    """Return `layers.plain_within` of x; with `grad`, that result's gradient, return x's gradient.

    `takes` must be true for x. Computed in float32, rounded at the end.
    """
    facts = (*x.shape[2:], x.shape[1], alpha, _KINDS.index(x.dtype))
    return _mapped(lambda *of: _kernels.normalise_within(*of[:3], *facts, *of[3:]), x, grad, x.shape[0])


def _mapped(work: Callable[..., None], x: Tensor, grad: Tensor | None, rows: int) -> Tensor:
    """Return the tensor that `work(x, grad, out, first, count)` fills.

    `work` is called on slices of `rows` rows. The buffers are in channels_last order: all maps of
    one pixel are adjacent in memory.
    """
    last = torch.channels_last
    x = x.contiguous(memory_format=last)
    gradient = None if grad is None else _buffer(grad.to(x.dtype).contiguous(memory_format=last))
    out = torch.empty_like(x, memory_format=last)
    source, target = _buffer(x), _buffer(out)
    _shared(lambda first, count: work(source, gradient, target, first, count), rows, x.numel() // rows)
    return out


def update(weight: Tensor, velocity: Tensor, grad: Tensor, momentum: float, decay: float, lr: float) -> bool:
    """Update in place as `optimizer.plain_update` does. Return False, with nothing changed, if the compiled kernel cannot process these tensors."""
    tensors = (weight, velocity, grad)
    here = all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
    alike = here and all(t.shape == weight.shape and t.stride() == weight.stride() for t in tensors)
    if _kernels is None or not alike or not _dense(weight):
        return False
    buffers = [_buffer(t.detach()) for t in tensors]
    _shared(lambda first, count: _kernels.update(*buffers, momentum, decay, lr, first, count), weight.numel(), 1)
    return True


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _buffer(x: Tensor) -> Any:  # noqa: ANN401  (an array)
    """Return a dense tensor's memory as an array; bfloat16 as int16, as numpy has no bfloat16."""
    x = x if x.is_contiguous() else x.permute(0, 2, 3, 1)
    return (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy()


def _shared(work: Callable[[int, int], None], rows: int, row: int) -> None:
    """Call `work(first, count)` on slices of all rows, on up to as many threads as torch uses. `row` is the count of numbers in a row."""
    threads = max(1, min(torch.get_num_threads(), rows * row // _SHARE))
    ends = [rows * i // threads for i in range(threads + 1)]
    if threads == 1:
        work(0, rows)
        return
    shares = [_pool(os.getpid(), torch.get_num_threads()).submit(work, low, high - low) for low, high in pairwise(ends)]
    for share in shares:
        share.result()


@lru_cache
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Return the thread pool of this process; a forked process has none of its parent's threads."""
    return ThreadPoolExecutor(threads, "alexprep-model")
