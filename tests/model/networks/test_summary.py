"""What a network costs: the spec's numbers."""

import pytest
import torch
from alexprep.model.networks.alexnet import AlexNet, parameters
from alexprep.model.networks.presets import PRESETS
from alexprep.model.networks.summary import multiply_adds

SIZES = {  # parameters, multiply-adds
    "paper": (60_965_224, 724_406_816),  # spec section 3
    "source": (60_965_224, 724_406_816),
    "one-gpu": (59_798_312, 391_514_384),
    "caffe": (60_965_224, 724_406_816),  # bvlc_alexnet's, with 227 pixels
    "owt": (61_100_840, 714_188_480),  # torchvision's alexnet
}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_sizes_of_the_presets(preset):
    with torch.device("meta"):
        model = AlexNet(preset)

    assert (parameters(model), multiply_adds(model, 227 if preset == "caffe" else 224)) == SIZES[preset]
