"""Describe a network as a table: each layer's output shape, parameters, multiply-adds and memory.

The figures come from running the network, not from a list; a network on the meta device needs no
memory for it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .alexnet import AlexNet
from .layers import GroupedLinear, NoDropout


@dataclass(frozen=True)
class LayerRow:
    """One layer in the forward pass of one image."""

    layer: str
    # height x width x input maps / stride; the inputs of a fully connected layer; else empty
    kernel: str
    output: tuple[int, ...]  # maps, height, width; or units
    towers: int  # equal groups of maps that do not see each other in this layer
    parameters: int
    multiply_adds: int
    activation_bytes: int  # of the output, at the given bytes per number


def describe(model: AlexNet, crop: int = 224, number_bytes: int = 4) -> list[LayerRow]:
    """Return a row per layer, in order of computation; `number_bytes` is bytes per number."""
    rows: list[LayerRow] = []

    def note(name: str, layer: nn.Module, output: Tensor) -> None:
        shape = tuple(output.shape[1:])
        weight = getattr(layer, "weight", None)
        count = sum(parameter.numel() for parameter in layer.parameters())
        multiply_adds = 0 if weight is None else weight.numel() * output[0, 0].numel()
        groups = getattr(layer, "groups", 1) if weight is not None else model.preset.towers
        rows.append(LayerRow(name, _kernel(layer), shape, groups, count, multiply_adds, number_bytes * output[0].numel()))

    layers = [(name, layer) for name, layer in model.named_children() if not isinstance(layer, nn.Identity | NoDropout)]
    hooks = [layer.register_forward_hook(lambda layer, _, output, name=name: note(name, layer, output)) for name, layer in layers]
    training, device = model.training, next(model.parameters()).device
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, crop, crop, device=device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return rows


def multiply_adds(model: AlexNet, crop: int = 224) -> int:
    """Return the multiply-adds of one image's forward pass through all layers with weights. They are 724,406,816 for the two towers at width 1."""
    return sum(row.multiply_adds for row in describe(model, crop))


def _kernel(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        return f"{height}x{width}x{layer.weight.shape[1]} / {layer.stride[0]}"
    if isinstance(layer, nn.Linear | GroupedLinear):
        return str(layer.weight.shape[1])
    return ""
