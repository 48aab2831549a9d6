"""The four-layer nets of sections 3.1 and 3.3, on CIFAR-10.

The paper only calls them "four-layer convolutional network". The shape here is that of the nets for
CIFAR-10 that its authors published: three convolutions of 32, 32 and 64 kernels 5x5, each followed
by overlapping pooling, and one fully connected layer.
"""

from math import sqrt

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import Activation
from .alexnet import check_shape
from .layers import ResponseNorm

MAPS = (32, 32, 64)
# Divisor of the pixels, and standard deviations of the four layers' initial weights. None means
# 1 / sqrt(inputs), which favours neither activation: in the linear part of both, a signal of
# variance 1 keeps that variance. "cifar-2012" has the values of the authors' files for CIFAR-10
# (cuda-convnet, layers-80sec).
INITIAL: dict[str, tuple[float, tuple[float, ...] | None]] = {"cifar": (64, None), "cifar-2012": (1, (0.0001, 0.01, 0.01, 0.1))}
# Factor on the normalisation's sum, as in section 3.3; k = 2 and beta = 0.75 are also from there
ALPHA = 1e-4


class FourLayers(nn.Module):
    """Four-layer network: takes raw 0..255 pixels minus a mean, returns one logit per class.

    The initial weights depend only on the arguments; `seed` seeds their generator.
    """

    def __init__(
        self,
        preset: str = "cifar",
        *,
        classes: int = 10,
        width: float = 1.0,
        crop: int = 32,
        seed: int = 0,
        activation: Activation = "relu",
        norm: bool = False,
    ) -> None:
        """Build the network; `norm` adds response normalisation after the first two activations.

        AlexNet has it at the same places. Raise ValueError for an unknown preset and for numbers that are out of range.
        """
        super().__init__()
        check_shape(classes, width)
        if crop < 8:
            raise ValueError(f"crop {crop} is too small for three poolings: at least 8 pixels")
        if preset not in INITIAL:
            raise ValueError(f"preset must be one of {', '.join(INITIAL)}; got {preset!r}")
        self.activation, (self.pixel, stds) = activation, INITIAL[preset]
        c1, c2, c3 = (max(1, round(maps * width)) for maps in MAPS)
        # sides 32, 16, 8, 4: pooling windows of 3 at stride 2, the last of which overhangs the edge
        side = crop // 8
        self.conv1 = nn.Conv2d(3, c1, 5, padding=2)
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2)
        self.conv3 = nn.Conv2d(c2, c3, 5, padding=2)
        self.norm1, self.norm2 = (ResponseNorm(alpha=ALPHA) if norm else nn.Identity() for _ in range(2))
        self.fc4 = nn.Linear(c3 * side * side, classes)
        if not self.conv1.weight.is_meta:
            self._initialise(seed, stds)

    def forward(self, images: Float[Tensor, "b 3 h w"], _keys: Int64[Tensor, "b"] | None = None) -> Float[Tensor, "b classes"]:
        """Return the logits."""
        x = self._pool(self.norm1(self._act(self.conv1(images / self.pixel))))
        x = self._pool(self.norm2(self._act(self.conv2(x))))
        x = self._pool(self._act(self.conv3(x)))
        return self.fc4(x.flatten(1))

    def _act(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.activation == "relu" else torch.tanh(x)

    def _pool(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    def _initialise(self, seed: int, stds: tuple[float, ...] | None) -> None:
        """Draw normal weights with these standard deviations (see `INITIAL`); biases are 0."""
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Conv2d | nn.Linear] = [self.conv1, self.conv2, self.conv3, self.fc4]
        for number, layer in enumerate(layers):
            std = 1 / sqrt(layer.weight[0].numel()) if stds is None else stds[number]
            nn.init.normal_(layer.weight, 0, std, generator=generator)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
