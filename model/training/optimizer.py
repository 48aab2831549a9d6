"""The paper's update rule (section 5), in which the velocity holds the learning rate."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..networks.kernels import update


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
    "one-gpu": Rates(bias_lr=2, bias_annealed=False, bias_decay=False),
    "caffe": Rates(bias_lr=2, bias_annealed=True, bias_decay=False),
    "cifar": Rates(bias_lr=2, bias_annealed=True, bias_decay=False),
    "cifar-2012": Rates(bias_lr=2, bias_annealed=True, bias_decay=False),
    "owt": Rates(bias_lr=1, bias_annealed=True, bias_decay=True),
}


class PaperSGD:
    """v <- momentum v - weight_decay lr w - lr gradient;  w <- w + v.

    torch's SGD keeps the learning rate out of its buffer: the same while the rate is constant, different for some twenty
    steps after it drops. A rate of 0 freezes: neither w nor v moves. (Not a torch.optim.Optimizer: nothing of that class is
    needed, and its constructor imports torch's compiler, 2.5 seconds.)
    """

    def __init__(self, model: nn.Module, rates: Rates, first_layer: str = "conv1.") -> None:
        """Take the parameters of `model`; set rates before the first step.

        `first_layer` begins the names of the parameters that the schedule slows and freezes; "": of none.
        """
        self.rates, self._first_layer = rates, first_layer
        self._parameters = dict(model.named_parameters())
        self._velocity = {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}
        self._lr = dict.fromkeys(self._parameters, 0.0)

    def set_rates(self, lr: float, conv1: float, first_lr: float) -> None:
        """Set the learning rates: `lr`, times `conv1` for the first layer; `first_lr` is the run's initial one, which some biases keep."""
        for name in self._parameters:
            rate = lr
            if _is_bias(name):
                rate = (lr if self.rates.bias_annealed else first_lr) * self.rates.bias_lr
            self._lr[name] = rate * conv1 if self._first_layer and name.startswith(self._first_layer) else rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        left: dict[tuple[float, float], list[tuple[Tensor, Tensor, Tensor]]] = {}  # by (lr * decay, lr): what is not compiled
        for name, parameter in self._parameters.items():
            lr = self._lr[name]
            if parameter.grad is None or lr == 0:
                continue
            decay = 0.0 if _is_bias(name) and not self.rates.bias_decay else self.rates.weight_decay
            values = (parameter, self._velocity[name], parameter.grad)
            if not update(*values, self.rates.momentum, lr * decay, lr):
                left.setdefault((lr * decay, lr), []).append(values)
        for (decay, lr), several in left.items():
            weights, velocities, grads = (list(column) for column in zip(*several, strict=True))
            plain_update(weights, velocities, grads, self.rates.momentum, decay, lr)

    def velocities(self) -> dict[str, Tensor]:
        """Return the velocity of each parameter by its name in the model."""
        return self._velocity

    def load_velocities(self, values: dict[str, Tensor]) -> None:
        """Take velocities that `velocities` returned; ValueError if they are of another network."""
        if {name: value.shape for name, value in values.items()} != {name: value.shape for name, value in self._velocity.items()}:
            raise ValueError("the velocities are of a network with other layers")
        for name, value in values.items():
            self._velocity[name].copy_(value)


def plain_update(weights: list[Tensor], velocities: list[Tensor], grads: list[Tensor], momentum: float, decay: float, lr: float) -> None:
    """Update weights and their velocities: the formula of `PaperSGD`; `decay` holds the learning rate. On a GPU, a kernel a line."""
    torch._foreach_mul_(velocities, momentum)
    torch._foreach_add_(velocities, weights, alpha=-decay)
    torch._foreach_add_(velocities, grads, alpha=-lr)
    torch._foreach_add_(weights, velocities)


def _is_bias(name: str) -> bool:
    return name.endswith("bias")
