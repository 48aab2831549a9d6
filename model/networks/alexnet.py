"""AlexNet in two towers (paper, section 3; 2012 code), its variants, and the paper's ablations.

A layer's maps are the first tower's, then the second's. A convolution that sees only its own tower
has two groups; conv3 and the fully connected layers see both towers. Comments above the layers give
the output shapes at width 1 and 224x224 input. A network may be one part of a network that is split
over ranks (partition.py): then every layer computes its share of the maps, and `join` gathers the
shares of the other ranks.
"""

from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import NONE, Ablations
from .layers import Dropout, GroupedLinear, NoDropout, ResponseNorm, WithinMapNorm
from .partition import WHOLE, Partition
from .presets import PRESETS, Preset


class _Sizes(NamedTuple):
    """Sizes of the layers of a whole network."""

    maps: tuple[int, int, int, int, int]  # of conv1 to conv5
    hidden: int  # units of fc6 and fc7
    sides: tuple[int, int, int, int]  # pixels a side: of conv1, conv2, conv3 to conv5, and of what fc6 sees


def _sizes(preset: "Preset", switches: Ablations, width: float, crop: int) -> _Sizes:
    def maps(at_width_1: int) -> int:
        return preset.towers * max(1, round(at_width_1 / preset.towers * width))

    kernels = preset.maps if switches.exchange else (preset.maps[0], 320, *preset.maps[2:])
    first, second, third, fourth, fifth = (maps(count) for count in kernels)
    return _Sizes((first, second, third, fourth, fifth), maps(preset.hidden), sides(crop, preset.padding, 3 if switches.overlap else 2))


def _exchanged(preset: "Preset", switches: Ablations, sizes: _Sizes) -> tuple[int, int]:
    """Return the numbers per image that the towers exchange: of maps, and of units.

    They are the maps before conv3, conv6 and fc6, the units before fc7 and fc8, and the maps beyond
    a tower's edge that a norm's sum includes.
    """
    towers, (_, c2, _, _, c5), (first, second, middle, last) = preset.towers, sizes.maps, sizes.sides
    shown = switches.exchange * (c2 * middle**2 + c5 * last**2) + switches.sixth * c5 * last**2
    if preset.norm and switches.norm and preset.norm_towers < towers:
        shown += 2 * ResponseNorm.reach * towers * (first**2 + second**2)
    return shown, sizes.hidden * (1 + (1 if switches.exchange else towers))


class AlexNet(nn.Module):
    """AlexNet: takes raw 0..255 pixels minus a mean, returns one logit per class.

    The initial weights depend only on the arguments; `seed` seeds their generator.
    """

    def __init__(
        self,
        preset: str = "source",
        *,
        classes: int = 1000,
        width: float = 1.0,
        crop: int = 224,
        seed: int = 0,
        switches: Ablations = NONE,
        convs: Partition = WHOLE,
        fcs: Partition = WHOLE,
    ) -> None:
        """Build the network; `width` scales the number of kernels of every layer but the last.

        `convs` and `fcs` select this rank's part of the convolutions and of the fully connected
        layers. The weights of a partial network are not initialised. Raise ValueError for an
        unknown preset and for numbers that are out of range.
        """
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
        check_shape(classes, width)
        self.preset, self.switches, self.width, self.classes = PRESETS[preset], switches, width, classes
        self.convs, self.fcs = convs, fcs
        if not switches.exchange and self.preset.towers == 1:
            raise ValueError(f"{preset} has one tower, so there is no exchange to leave out; use a preset with two towers")
        self.overhang = 0 if self.preset.padding else -(crop - 11) % 4  # 3 pixels at 224
        sizes = _sizes(self.preset, switches, width, crop)
        self.exchanged = _exchanged(self.preset, switches, sizes)
        self._add_convolutions(sizes)
        self._add_fully_connected(sizes)
        # on the meta device, normal_ would import torch's compiler, which takes 2 seconds
        if convs.of == fcs.of == 1 and not self.conv1.weight.is_meta:
            self._initialise(seed)

    def _add_convolutions(self, sizes: "_Sizes") -> None:
        p, convs, (c1, c2, c3, c4, c5) = self.preset, self.convs, sizes.maps
        # groups of a convolution that sees only its own tower: the towers on this rank
        own = p.towers // convs.of
        joint = 1 if self.switches.exchange else own  # groups of a convolution that sees both towers
        seen = c2 if self.switches.exchange else c2 // convs.of
        # B 96 55 55; pooled: B 96 27 27
        self.conv1 = nn.Conv2d(3, convs.share(c1), 11, stride=4, padding=p.padding)
        self.norm1 = self._norm()
        # B 256 27 27; pooled: B 256 13 13
        self.conv2 = nn.Conv2d(convs.share(c1), convs.share(c2), 5, padding=2, groups=own)
        self.norm2 = self._norm()
        self.within2 = WithinMapNorm() if p.within_map and self.switches.norm else nn.Identity()
        # B 384 13 13, from both towers
        self.conv3 = nn.Conv2d(seen, convs.share(c3), 3, padding=1, groups=joint)
        # B 384 13 13
        self.conv4 = nn.Conv2d(convs.share(c3), convs.share(c4), 3, padding=1, groups=own)
        # B 256 13 13; pooled: B 256 6 6
        self.conv5 = nn.Conv2d(convs.share(c4), convs.share(c5), 3, padding=1, groups=own)
        self.conv6 = nn.Conv2d(c5, convs.share(c5), 3, padding=1) if self.switches.sixth else None

    def _add_fully_connected(self, sizes: "_Sizes") -> None:
        p, fcs, fc = self.preset, self.fcs, sizes.hidden
        inputs = sizes.maps[4] * sizes.sides[3] ** 2  # 9216
        if self.switches.exchange:
            self.fc6: nn.Module = nn.Linear(inputs, fcs.share(fc))
            units6 = fc
        else:
            self.fc6 = GroupedLinear(inputs // self.convs.of, fcs.share(p.towers * fc), p.towers // self.convs.of)
            units6 = p.towers * fc
        # of the whole network: the inputs of fc6, and the units of fc6 and fc7
        self.inputs, self.units = inputs, (units6, fc)
        self.drop6 = self._dropout(6, fcs, inputs if p.dropout_first else units6)
        self.fc7 = nn.Linear(units6, fcs.share(fc))
        self.drop7 = self._dropout(7, fcs, units6 if p.dropout_first else fc)
        self.fc8 = nn.Linear(fc, fcs.share_padded(self.classes))

    def forward(self, images: Float[Tensor, "b 3 h w"], keys: Int64[Tensor, "n"] | None = None) -> Float[Tensor, "n classes"]:
        """Return the logits; in training, `keys` decide which units are dropped.

        There is one key per image (see `layers.dropout_keys`). n = b, except if the fully connected layers are split
        over ranks that hold different images (`fcs.batch`): then n counts the images of all these ranks.
        """
        x = images if self.preset.pixel == 1 else images * self.preset.pixel
        x = self.conv1(F.pad(x, (0, self.overhang, 0, self.overhang)) if self.overhang else x)
        x = self._act(self._pool(self._normed(self.norm1, x))) if self.preset.norm1_first else self._pool(self._normed(self.norm1, self._act(x)))
        x = self._pool(self.within2(self._normed(self.norm2, self._act(self.conv2(x)))))
        x = self._act(self.conv3(self.convs.join(x) if self.switches.exchange else x))
        x = self._act(self.conv4(x))
        x = self._pool(self._act(self.conv5(x)))
        if self.conv6 is not None:
            x = self._act(self.conv6(self.convs.join(x)))
        x = (self.convs.join(x) if self.switches.exchange else x).flatten(1)
        x = self.fcs.batch(x)
        return self._classify(x, keys)

    def _classify(self, x: Float[Tensor, "n inputs"], keys: Int64[Tensor, "n"] | None) -> Float[Tensor, "n classes"]:
        if self.preset.dropout_first:
            x = self.fcs.join(self._act(self.fc6(self.drop6(x, keys))))
            x = self.fcs.join(self._act(self.fc7(self.drop7(x, keys))))
        else:
            x = self.fcs.join(self.drop6(self._act(self.fc6(x)), keys))
            x = self.fcs.join(self.drop7(self._act(self.fc7(x)), keys))
        return self.fcs.join(self.fc8(x), alike=True)[:, : self.classes]

    def _act(self, x: Tensor) -> Tensor:
        return F.relu(x) if self.switches.activation == "relu" else torch.tanh(x)

    def _pool(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Return x max-pooled at stride 2: overlapping windows of 3 (paper, section 3.4) or 2."""
        return F.max_pool2d(x, 3 if self.switches.overlap else 2, 2)

    def _norm(self) -> nn.Module:
        p = self.preset
        if not (p.norm and self.switches.norm):
            return nn.Identity()
        towers = max(1, p.norm_towers // self.convs.of)
        return ResponseNorm(alpha=p.norm_alpha, k=p.norm_k, towers=towers)

    def _normed(self, norm: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x normalised.

        If the sum covers the maps of both towers and other ranks hold some of them, first fetch the
        two maps beyond each edge.
        """
        if self.convs.of == 1 or self.preset.norm_towers > 1 or not isinstance(norm, ResponseNorm):
            return norm(x)
        wider, before = self.convs.halo(x, norm.reach)
        return norm(wider)[:, before : before + x.shape[1]]

    def _dropout(self, layer: int, split: Partition, units: int) -> nn.Module:
        if not self.switches.dropout:
            return NoDropout()
        whole = self.preset.dropout_first  # dropout before a layer is given the units of all ranks
        return Dropout(layer, first=0 if whole else split.index * split.share(units), inverted=self.preset.inverted)

    def _initialise(self, seed: int) -> None:
        """Draw N(0, std**2) weights; set biases to the preset's in five layers, else to 0.

        The five are conv2, conv4, conv5, fc6 and fc7; their bias is 1 in the paper (section 5). A narrower net has
        fewer inputs per unit: its std grows by 1 / sqrt(width), so that the signal keeps its size.
        """
        generator = torch.Generator().manual_seed(seed)
        p = self.preset
        stds = dict(zip(("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"), (*p.conv_std, *p.fc_std), strict=True))
        for name, layer in self.named_children():
            weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
            if weight is None or bias is None:
                continue
            std = stds.get(name, p.conv_std[-1])
            if name != "conv1":
                std /= sqrt(self.width)
            nn.init.normal_(weight, 0, std, generator=generator)
            nn.init.constant_(bias, p.bias if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0)


def check_shape(classes: int, width: float) -> None:
    """Raise ValueError if `classes` or `width` is out of range."""
    if classes < 2:
        raise ValueError(f"classes must be at least 2, got {classes}")
    if not 0 < width <= 16:
        raise ValueError(f"width must be above 0 and at most 16, got {width}")


def sides(crop: int, padding: int = 0, window: int = 3) -> tuple[int, int, int, int]:
    """Return the sides of the maps after conv1 and each pooling: 55, 27, 13, 6 for 224 pixels. Raise ValueError if no pixel would be left."""
    # without padding, the division rounds up
    side = [(crop + 2 * padding - 11) // 4 + 1 if padding else -(-(crop - 11) // 4) + 1]
    for _ in range(3):
        side.append((side[-1] - window) // 2 + 1)
    if side[-1] < 1:
        raise ValueError(f"crop {crop} is too small for three poolings: at least 64 pixels")
    return tuple(side)  # type: ignore[return-value]


# Mean and standard deviation of pixels between 0 and 1
TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Layer -> its number in torchvision's `features` or `classifier`
_TORCHVISION = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10, "fc6": 1, "fc7": 4, "fc8": 6}


def from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of torchvision's alexnet under the names of preset `owt`.

    The network takes pixels minus 255 * TORCHVISION_MEAN; the division by TORCHVISION_STD is folded
    into conv1. Raise ValueError, naming the weight, if one is missing.
    """
    result = {}
    for layer, number in _TORCHVISION.items():
        for kind in ("weight", "bias"):
            name = f"{'features' if layer.startswith('conv') else 'classifier'}.{number}.{kind}"
            if name not in state:
                raise ValueError(f"these are not the weights of torchvision's alexnet: they lack {name}")
            result[f"{layer}.{kind}"] = state[name]
    scale = 1 / (255 * PRESETS["owt"].pixel * torch.tensor(TORCHVISION_STD))
    result["conv1.weight"] = result["conv1.weight"] * scale[:, None, None]
    return result


def parameters(model: nn.Module) -> int:
    """Return the number of parameters: 60,965,224 at width 1 with 1000 classes."""
    return sum(p.numel() for p in model.parameters())
