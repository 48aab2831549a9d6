"""Response normalisation, forward and backward: our compiled code, ours in plain torch, and torch's own layer, alternating in one run."""

import platform
import statistics
import time
from collections.abc import Callable

import torch
from alexprep.model.networks.layers import ResponseNorm, plain_norm
from torch import Tensor, nn


def seconds(layer: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    start = time.perf_counter()
    layer(x).backward(grad)
    return time.perf_counter() - start


def main() -> None:
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; 64x96x55x55, median of 7, forward and backward")
    theirs = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)
    layers: dict[str, Callable[[Tensor], Tensor]] = {
        "compiled": ResponseNorm(alpha=1e-4 / 5),
        "plain": lambda x: plain_norm(x, 1, 1e-4 / 5, 2.0),
        "torch": theirs,
    }
    for dtype in (torch.float32, torch.bfloat16):
        for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
            x, grad = (torch.randn(64, 96, 55, 55).to(dtype, memory_format=layout) for _ in range(2))
            x.requires_grad_()
            contestants = {label: layer for label, layer in layers.items() if label != "torch" or dtype == torch.float32}  # torch's has no bfloat16
            times: dict[str, list[float]] = {label: [] for label in contestants}
            for round_ in range(8):
                for label, layer in contestants.items():
                    taken = seconds(layer, x, grad)
                    if round_:  # the first round warms up
                        times[label].append(taken)
            found = {label: statistics.median(values) for label, values in times.items()}
            told = "   ".join(f"{label} {1000 * value:6.0f} ms ({value / found['compiled']:.1f})" for label, value in found.items())
            print(f"{str(dtype).removeprefix('torch.'):<9} {name:<14} {told}")


if __name__ == "__main__":
    main()
