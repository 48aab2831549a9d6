"""The paper's update rule (section 5), in which the velocity holds the learning rate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rates:
    """How a preset treats weights and biases."""

    bias_lr: float  # times the weights' learning rate at the start
    bias_annealed: bool  # whether the biases' rate follows the schedule's drops
    bias_decay: bool
    momentum: float = 0.9
    weight_decay: float = 0.0005


RATES = {
    "paper": Rates(bias_lr=1, bias_annealed=True, bias_decay=True),
    "source": Rates(bias_lr=2, bias_annealed=False, bias_decay=False),
}


class PaperSGD(torch.optim.Optimizer):
    """v <- momentum v - weight_decay lr w - lr gradient;  w <- w + v.

    torch's SGD keeps the learning rate out of its buffer: the same while the rate is constant, different for some twenty
    steps after it drops. A group whose rate is 0 is frozen: neither w nor v moves.
    """

    def __init__(self, model: nn.Module, rates: Rates) -> None:
        """Group the parameters of `model`: conv1's weights, the other weights, the biases. Set rates before the first step."""
        named = list(model.named_parameters())
        groups: list[dict[str, Any]] = [
            {"name": "conv1", "params": [p for n, p in named if n == "conv1.weight"], "weight_decay": rates.weight_decay},
            {"name": "weights", "params": [p for n, p in named if n.endswith("weight") and n != "conv1.weight"], "weight_decay": rates.weight_decay},
            {"name": "biases", "params": [p for n, p in named if n.endswith("bias")], "weight_decay": rates.weight_decay * rates.bias_decay},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": 0.0, "momentum": rates.momentum})
        self.rates = rates
        self._names = {parameter: name for name, parameter in named}

    def set_rates(self, lr: float, conv1: float, first_lr: float) -> None:
        """Set the learning rates: `lr` of the weights, times `conv1` for the first layer's; `first_lr` is the run's initial one."""
        bias = (lr if self.rates.bias_annealed else first_lr) * self.rates.bias_lr
        by_name = {"conv1": lr * conv1, "weights": lr, "biases": bias}
        for group in self.param_groups:
            group["lr"] = by_name[group["name"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            lr = group["lr"]
            moved = [p for p in group["params"] if p.grad is not None] if lr else []
            if not moved:
                continue
            velocity = [self._velocity(p) for p in moved]
            torch._foreach_mul_(velocity, group["momentum"])  # noqa: SLF001  (the documented optimisers use the same)
            torch._foreach_add_(velocity, moved, alpha=-lr * group["weight_decay"])  # noqa: SLF001
            torch._foreach_add_(velocity, [p.grad for p in moved], alpha=-lr)  # noqa: SLF001
            torch._foreach_add_(moved, velocity)  # noqa: SLF001

    def _velocity(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        velocity: Tensor = state["velocity"]
        return velocity

    def velocities(self) -> dict[str, Tensor]:
        """Return the velocity of each parameter by its name in the model."""
        return {name: self._velocity(parameter) for parameter, name in self._names.items()}

    def load_velocities(self, values: dict[str, Tensor]) -> None:
        """Take velocities that `velocities` returned; ValueError if they are of another network."""
        if values.keys() != set(self._names.values()):
            raise ValueError("the velocities are of a network with other layers")
        for parameter, name in self._names.items():
            self._velocity(parameter).copy_(values[name])
