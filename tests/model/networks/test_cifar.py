"""The four-layer nets."""

import pytest
import torch
from alexprep.model.networks.alexnet import parameters
from alexprep.model.networks.cifar import FourLayers


def test_the_four_layer_net_has_its_shapes_and_its_two_initialisations():
    net = FourLayers()
    assert parameters(net) == 89_578  # 32*75+32 + 32*800+32 + 64*800+64 + 10*1024+10
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert float(net.conv2.weight.detach().std()) == pytest.approx(800**-0.5, rel=0.02)
    old = FourLayers("cifar-2012", activation="tanh", norm=True)
    assert float(old.conv1.weight.detach().std()) == pytest.approx(1e-4, rel=0.05)
    assert float(old.fc4.weight.detach().std()) == pytest.approx(0.1, rel=0.02)
    assert FourLayers(crop=24)(torch.zeros(1, 3, 24, 24)).shape == (1, 10)
    images = torch.randn(2, 3, 32, 32) * 60
    relu, tanh, normed = (FourLayers(activation=a, norm=n)(images) for a, n in (("relu", False), ("tanh", False), ("relu", True)))
    assert not torch.allclose(relu, tanh)
    assert not torch.allclose(relu, normed)
    for options in ({"crop": 7}, {"preset": "cifar-1999"}, {"classes": 1}):
        with pytest.raises(ValueError, match="must be|too small"):
            FourLayers(**options)
