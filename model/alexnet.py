"""AlexNet in two towers (paper, section 3; the 2012 code), at any width, and what its presets differ in.

The maps of a layer are the first tower's, then the second's. A convolution that sees only its own tower has two groups;
conv3 and the fully connected layers see both. Shapes at width 1 and 224x224 input stand beside the layers.
"""

from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Dropout, ResponseNorm, WithinMapNorm


@dataclass(frozen=True)
class Preset:
    """What the paper's text and the code that its authors ran do differently in the network."""

    conv_std: tuple[float, float, float, float, float]  # of the initial weights; fully connected layers have 0.01
    norm_alpha: float  # of the sum over five maps
    norm_towers: int  # 2: the sum stays within a tower
    norm1_first: bool  # layer 1: norm, pool, ReLU instead of ReLU, norm, pool
    within_map: bool  # layer 2: a second normalisation, within each map


PRESETS = {
    "paper": Preset((0.01, 0.01, 0.01, 0.01, 0.01), norm_alpha=1e-4, norm_towers=1, norm1_first=False, within_map=False),
    # alpha is divided by the window of five
    "source": Preset((0.01, 0.01, 0.03, 0.03, 0.03), norm_alpha=1e-4 / 5, norm_towers=2, norm1_first=True, within_map=True),
}


class AlexNet(nn.Module):
    """Raw 0..255 pixels minus a mean -> one logit a class. Initial weights follow from `seed` alone."""

    def __init__(self, preset: str = "source", *, classes: int = 1000, width: float = 1.0, crop: int = 224, seed: int = 0) -> None:
        """Build the network; `width` scales the number of kernels of every layer but the last."""
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}")
        if not 0 < width <= 16:
            raise ValueError(f"width must be above 0 and at most 16, got {width}")
        self.preset, self.width = PRESETS[preset], width

        def maps(a_tower: int) -> int:
            return 2 * max(1, round(a_tower * width))

        c1, c2, c3, c4, c5, fc = (maps(n) for n in (48, 128, 192, 192, 128, 2048))
        self.overhang = -(crop - 11) % 4  # the last window of conv1 hangs over the right and bottom edge: 3 pixels at 224
        last = last_side(crop)

        self.conv1 = nn.Conv2d(3, c1, 11, stride=4)  # B  96 55 55
        self.norm1 = self._norm(c1)  #                 pooled: B  96 27 27
        self.conv2 = nn.Conv2d(c1, c2, 5, padding=2, groups=2)  # B 256 27 27
        self.norm2 = self._norm(c2)  #                 pooled: B 256 13 13
        self.within2 = WithinMapNorm() if self.preset.within_map else nn.Identity()
        self.conv3 = nn.Conv2d(c2, c3, 3, padding=1)  # B 384 13 13, from both towers
        self.conv4 = nn.Conv2d(c3, c4, 3, padding=1, groups=2)  # B 384 13 13
        self.conv5 = nn.Conv2d(c4, c5, 3, padding=1, groups=2)  # B 256 13 13, pooled: B 256 6 6
        self.fc6 = nn.Linear(c5 * last * last, fc)  # 9216 -> 4096
        self.drop6 = Dropout(6)
        self.fc7 = nn.Linear(fc, fc)
        self.drop7 = Dropout(7)
        self.fc8 = nn.Linear(fc, classes)
        self._initialise(seed)

    def forward(self, images: Float[Tensor, "b 3 h w"], keys: Int64[Tensor, "b"] | None = None) -> Float[Tensor, "b classes"]:
        """Return the logits; in training, `keys` (one an image, see `layers.dropout_keys`) decide which units are dropped."""
        x = self.conv1(F.pad(images, (0, self.overhang, 0, self.overhang)))
        x = F.relu(pool(self.norm1(x))) if self.preset.norm1_first else pool(self.norm1(F.relu(x)))
        x = pool(self.within2(self.norm2(F.relu(self.conv2(x)))))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x))
        x = pool(F.relu(self.conv5(x)))
        x = self.drop6(F.relu(self.fc6(x.flatten(1))), keys)
        x = self.drop7(F.relu(self.fc7(x)), keys)
        return self.fc8(x)

    def _norm(self, maps: int) -> ResponseNorm:
        return ResponseNorm(maps, alpha=self.preset.norm_alpha, towers=self.preset.norm_towers)

    def _initialise(self, seed: int) -> None:
        """Draw N(0, std**2) weights; biases are 1 in conv2, conv4, conv5, fc6 and fc7, else 0 (paper, section 5).

        A narrower net has fewer inputs a unit: its std grows by 1 / sqrt(width), so that the signal keeps its size.
        """
        generator = torch.Generator().manual_seed(seed)
        stds = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5"), self.preset.conv_std, strict=True))
        for name, layer in self.named_children():
            if not isinstance(layer, nn.Conv2d | nn.Linear):
                continue
            std = stds.get(name, 0.01)
            if name != "conv1":
                std /= sqrt(self.width)
            nn.init.normal_(layer.weight, 0, std, generator=generator)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, float(name in ("conv2", "conv4", "conv5", "fc6", "fc7")))


def last_side(crop: int) -> int:
    """Return the side of the maps that fc6 sees: 6 for 224 pixels. ValueError if nothing would be left."""
    side = -(-(crop - 11) // 4) + 1  # 55 after conv1: rounded up
    for _ in range(3):
        side = pooled(side)  # 27, 13, 6
    if side < 1:
        raise ValueError(f"crop {crop} is too small for three poolings: at least 64 pixels")
    return side


def pooled(side: int) -> int:
    """Return the side of a map after overlapping pooling."""
    return (side - 3) // 2 + 1


def pool(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Overlapping max pooling, window 3, stride 2 (paper, section 3.4)."""
    return F.max_pool2d(x, 3, 2)


def parameters(model: nn.Module) -> int:
    """Return the number of trained numbers: 60,965,224 at width 1 with 1000 classes."""
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: AlexNet, crop: int = 224) -> int:
    """Return the multiply-adds of one image's forward pass through all layers with weights: 724,406,816 at width 1, counted by running it."""
    counts: list[int] = []

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        counts.append(layer.weight.numel() * output[0, 0].numel())

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, crop, crop))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return sum(counts)
