"""The update rule, written out in Python."""

import pytest
import torch
from alexprep.model.networks.alexnet import AlexNet
from alexprep.model.training.optimizer import RATES, PaperSGD
from torch import nn

SMALL = {"width": 0.05, "classes": 4, "crop": 64}


class Line(nn.Module):
    """One weight, one bias."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.tensor(2.0, dtype=torch.float64)), nn.Parameter(torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("preset", RATES)
def test_the_update_rule_is_the_papers_over_a_drop_of_the_rate(preset):
    """v <- 0.9 v - 0.0005 lr w - lr g; w <- w + v, written out in Python; biases as the preset says."""
    model = Line()
    optimizer = PaperSGD(model, RATES[preset])
    w, b, vw, vb = 2.0, 1.0, 0.0, 0.0
    for step in range(40):
        lr = 0.01 if step < 20 else 0.001
        bias_lr, decay = {"paper": (lr, 0.0005), "owt": (lr, 0.0005), "source": (0.02, 0.0), "one-gpu": (0.02, 0.0)}.get(preset, (2 * lr, 0.0))
        optimizer.set_rates(lr, 1.0, 0.01)
        optimizer.zero_grad()
        (3 * model.weight + model.bias).square().backward()
        optimizer.step()
        g = 2 * (3 * w + b)
        vw = 0.9 * vw - 0.0005 * lr * w - lr * 3 * g
        vb = 0.9 * vb - decay * bias_lr * b - bias_lr * g
        w, b = w + vw, b + vb

        assert model.weight.item() == pytest.approx(w, rel=1e-12)
        assert model.bias.item() == pytest.approx(b, rel=1e-12)


def test_torchs_own_sgd_would_differ_after_a_drop():
    """The reason for the optimiser: without this difference it should be deleted."""
    ours, theirs = Line(), Line()
    a, b = PaperSGD(ours, RATES["paper"]), torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0005)
    for step in range(22):
        lr = 0.01 if step < 20 else 0.001
        a.set_rates(lr, 1.0, 0.01)
        b.param_groups[0]["lr"] = lr
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            (3 * model.weight + model.bias).square().backward()
            optimizer.step()
        same = ours.weight.item() == pytest.approx(theirs.weight.item(), rel=1e-9)
        assert same == (step < 20)


def test_a_rate_of_zero_freezes_conv1_and_nothing_else():
    model = AlexNet(**SMALL)
    optimizer = PaperSGD(model, RATES["source"])
    optimizer.set_rates(0.01, 0.0, 0.01)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()(torch.randn(2, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    after = model.state_dict()

    assert [name for name in before if torch.equal(before[name], after[name])] == ["conv1.weight", "conv1.bias"]


def test_a_layer_of_somebody_s_own_network_called_conv1_is_like_all_others():
    model = AlexNet(**SMALL)
    optimizer = PaperSGD(model, RATES["source"], first_layer="")
    optimizer.set_rates(0.01, 0.0, 0.01)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()(torch.randn(2, 3, 64, 64)).square().sum().backward()
    optimizer.step()

    assert not [name for name, value in model.state_dict().items() if torch.equal(before[name], value)]


def test_the_velocities_of_another_network_are_refused():
    optimizer = PaperSGD(AlexNet(**SMALL), RATES["paper"])

    with pytest.raises(ValueError, match="other layers"):
        optimizer.load_velocities({"conv1.weight": torch.zeros(1)})
