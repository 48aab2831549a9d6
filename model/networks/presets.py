"""Presets of the network: what the paper's text, the authors' code and their successors built."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Preset:
    """A network of the family, at width 1."""

    maps: tuple[int, int, int, int, int]  # kernels of each convolution, in all towers together
    conv_std: tuple[float, float, float, float, float]  # standard deviation of the initial weights
    fc_std: tuple[float, float, float] = (0.01, 0.01, 0.01)
    hidden: int = 4096  # units in each of fc6 and fc7
    towers: int = 2
    bias: float = 1.0  # initial bias in conv2, conv4, conv5, fc6 and fc7; elsewhere 0
    norm_alpha: float = 1e-4 / 5  # factor on the sum over five maps
    norm_k: float = 2.0
    norm_towers: int = 1  # 2: the sum stays within a tower
    norm: bool = True
    norm1_first: bool = False  # layer 1: norm, pool, ReLU instead of ReLU, norm, pool
    within_map: bool = False  # layer 2: a second normalisation, within each map
    pixel: float = 1.0  # factor on the pixels
    # padding of conv1 on all sides; if 0, its last window overhangs the right and bottom edges
    padding: int = 0
    # dropout doubles the kept units in training, instead of halving all units at test time
    inverted: bool = False
    dropout_first: bool = False  # dropout before fc6 and fc7 instead of after them


_AUTHORS = Preset((96, 256, 384, 384, 256), (0.01, 0.01, 0.03, 0.03, 0.03), norm_towers=2, norm1_first=True, within_map=True)
PRESETS = {
    # The paper's formula multiplies the sum by alpha; the authors' code first divides alpha by the
    # window of five
    "paper": Preset((96, 256, 384, 384, 256), (0.01,) * 5, norm_alpha=1e-4),
    "source": _AUTHORS,
    # The paper's net on one GPU (section 3.2): half of the kernels, except in the last convolution
    # and the fully connected layers
    "one-gpu": replace(_AUTHORS, maps=(48, 128, 192, 192, 256), towers=1, norm_towers=1),
    # bvlc_alexnet
    "caffe": Preset((96, 256, 384, 384, 256), (0.01,) * 5, (0.005, 0.005, 0.01), bias=0.1, norm_k=1.0, inverted=True),
    # "One weird trick", section 5, as torchvision publishes it: the same parameter count, and
    # torchvision's weights can be loaded. Pixels have about unit variance; initial weights are as
    # large as those of torch's own layers.
    "owt": Preset(
        (64, 192, 384, 256, 256),
        (0.030, 0.014, 0.014, 0.010, 0.012),
        (0.006, 0.009, 0.009),
        towers=1,
        bias=0.0,
        norm=False,
        pixel=1 / 57,
        padding=2,
        inverted=True,
        dropout_first=True,
    ),
}
