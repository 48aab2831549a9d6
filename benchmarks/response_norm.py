"""Response normalisation, forward and backward: ours against torch's own layer, alternating in one run."""

import platform
import statistics
import time

import torch
from alexprep.model.layers import ResponseNorm
from torch import nn


def seconds(layer: nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    layer(x).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; 64x96x55x55 float32, median of 7, forward and backward"
    )
    for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        x = torch.randn(64, 96, 55, 55).to(memory_format=layout).requires_grad_()
        layers = {"ours": ResponseNorm(96, alpha=1e-4 / 5), "torch": nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)}
        times: dict[str, list[float]] = {label: [] for label in layers}
        for round_ in range(8):
            for label, layer in layers.items():
                taken = seconds(layer, x)
                if round_:  # the first warms up
                    times[label].append(taken)
        ours, theirs = (statistics.median(times[label]) for label in ("ours", "torch"))
        print(f"{name:<14} ours {1000 * ours:6.0f} ms   torch {1000 * theirs:6.0f} ms   ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
