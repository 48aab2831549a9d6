"""The paper's update rule (section 5), in which the velocity includes the learning rate."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..networks.kernels import update


@dataclass(frozen=True)
class Rates:
    """A preset's rules for updating weights and biases."""

    bias_lr: float  # multiple of the weights' initial learning rate
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
    """The paper's SGD: v <- momentum v - weight_decay lr w - lr gradient;  w <- w + v.

    torch's SGD keeps the learning rate out of its buffer: the two agree while the rate is constant,
    and differ for some twenty steps after it drops. A rate of 0 freezes a parameter: neither w nor
    v changes. This is not a torch.optim.Optimizer: nothing of that class is needed, and its
    constructor imports torch's compiler, which takes 2.5 seconds.
    """

    def __init__(self, model: nn.Module, rates: Rates, first_layer: str = "conv1.") -> None:
        """Take the parameters of `model`; call `set_rates` before the first step.

        `first_layer` is the prefix of the names of the parameters that the schedule slows and freezes; "": none.
        """
        self.rates, self._first_layer = rates, first_layer
        self._parameters = dict(model.named_parameters())
        self._velocity = {name: torch.zeros_like(parameter) for name, parameter in self._parameters.items()}
        self._lr = dict.fromkeys(self._parameters, 0.0)

    def set_rates(self, lr: float, conv1: float, first_lr: float) -> None:
        """Set the learning rates: `lr`, multiplied by `conv1` for the first layer.

        `first_lr` is the run's initial rate, on which biases stay if they are not annealed.
        """
        for name in self._parameters:
            rate = lr
            if _is_bias(name):
                rate = (lr if self.rates.bias_annealed else first_lr) * self.rates.bias_lr
            self._lr[name] = rate * conv1 if self._first_layer and name.startswith(self._first_layer) else rate

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        # parameters that the compiled kernel did not update, by (lr * decay, lr)
        left: dict[tuple[float, float], list[tuple[Tensor, Tensor, Tensor]]] = {}
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
        """Load velocities from `velocities`. Raise ValueError if they are of another network."""
        if {name: value.shape for name, value in values.items()} != {name: value.shape for name, value in self._velocity.items()}:
            raise ValueError("the velocities belong to a network with other layers")
        for name, value in values.items():
            self._velocity[name].copy_(value)


def plain_update(weights: list[Tensor], velocities: list[Tensor], grads: list[Tensor], momentum: float, decay: float, lr: float) -> None:
    """Update weights and their velocities by the formula of `PaperSGD`. `decay` includes the learning rate. On a GPU, each line is one kernel."""
    torch._foreach_mul_(velocities, momentum)
    torch._foreach_add_(velocities, weights, alpha=-decay)
    torch._foreach_add_(velocities, grads, alpha=-lr)
    torch._foreach_add_(weights, velocities)


def _is_bias(name: str) -> bool:
    return name.endswith("bias")
