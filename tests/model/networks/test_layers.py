"""Each layer against its formula; dropout's masks."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from alexprep.model.networks.layers import Dropout, GroupedLinear, ResponseNorm, WithinMapNorm, dropout_keys, mask
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn


def scalar_norm(x, alpha, k, size, towers):
    """The paper's formula, one number at a time."""
    out = np.empty_like(x)
    maps = x.shape[1] // towers
    for i in range(x.shape[1]):
        low = max(i // maps * maps, i - size // 2)
        high = min((i // maps + 1) * maps, i + size // 2 + 1)
        out[:, i] = x[:, i] / (k + alpha * (x[:, low:high] ** 2).sum(1)) ** 0.75
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 4, 6, 10, 16]), st.sampled_from([1, 2]), st.floats(1e-5, 1e-2))
def test_response_normalisation_is_the_papers_formula(seed, maps, towers, alpha):
    x = torch.from_numpy(np.random.default_rng(seed).normal(0, 30, (2, maps, 3, 3)))
    layer = ResponseNorm(alpha=alpha, towers=towers)

    assert np.allclose(layer(x).numpy(), scalar_norm(x.numpy(), alpha, 2, 5, towers), rtol=1e-12)


def test_response_normalisation_agrees_with_torchs_own_forward_and_backward():
    x = (torch.randn(4, 96, 9, 9) * 20).requires_grad_()
    weight = torch.randn_like(x)
    ours, theirs = ResponseNorm(alpha=1e-4 / 5), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)
    (grad_ours,), (grad_theirs,) = (torch.autograd.grad((layer(x) * weight).sum(), x) for layer in (ours, theirs))

    assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert torch.allclose(grad_ours, grad_theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("towers", [1, 2])
def test_the_gradient_of_response_normalisation_is_right(towers):
    x = (torch.randn(2, 8, 3, 3, dtype=torch.float64) * 30).requires_grad_()

    assert torch.autograd.gradcheck(ResponseNorm(alpha=1e-3, towers=towers), x)


def test_within_map_normalisation_is_its_formula():
    """And its gradient is right."""
    x = torch.randn(1, 2, 7, 7, dtype=torch.float64) * 40
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    expected = torch.empty_like(x)
    for i in range(7):
        for j in range(7):
            expected[..., i, j] = x[..., i, j] / (1 + 1e-3 / 25 * (padded[..., i : i + 5, j : j + 5] ** 2).sum((-1, -2))) ** 0.75

    assert torch.allclose(WithinMapNorm()(x), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(WithinMapNorm(), x.requires_grad_())


def test_grouped_units_see_their_own_part_of_the_inputs():
    layer = GroupedLinear(6, 4, 2)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    x = torch.randn(5, 6)
    expected = [x[:, :3] @ layer.weight[:2].T + layer.bias[:2], x[:, 3:] @ layer.weight[2:].T + layer.bias[2:]]

    assert torch.allclose(layer(x), torch.cat(expected, 1), atol=1e-6)


def test_inverted_dropout_doubles_in_training_and_does_nothing_later():
    layer, x = Dropout(6, inverted=True), torch.ones(4, 1000)

    assert set(layer.train()(x, dropout_keys(0, 0, torch.arange(4))).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(x, None), x)


def test_dropout_is_not_inverted():
    """Spec section 3: mask in training, half of everything at test."""
    layer, x = Dropout(6), torch.ones(4, 1000)
    dropped = layer.train()(x, dropout_keys(0, 0, torch.arange(4)))

    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(layer.eval()(x, None), x / 2)
    with pytest.raises(ValueError, match="needs a dropout key"):
        layer.train()(x, None)


def test_a_mask_depends_on_seed_step_record_layer_and_unit_and_on_nothing_else():
    records = torch.arange(64)
    base = mask(dropout_keys(1, 5, records), 6, 4096)

    assert torch.equal(base[7:9], mask(dropout_keys(1, 5, records[7:9]), 6, 4096))
    for other in (dropout_keys(2, 5, records), dropout_keys(1, 6, records), dropout_keys(1, 5, records + 64)):
        assert abs((base == mask(other, 6, 4096)).float().mean() - 0.5) < 0.005  # 5 standard errors of 262,144
    assert abs((base == mask(dropout_keys(1, 5, records), 7, 4096)).float().mean() - 0.5) < 0.005


def test_masks_are_fair_and_independent():
    keep = mask(dropout_keys(0, 0, torch.arange(512)), 6, 512).double()

    assert abs(keep.mean() - 0.5) < 0.005
    for correlation in (torch.corrcoef(keep), torch.corrcoef(keep.T)):
        correlation.fill_diagonal_(0)
        assert correlation.abs().max() < 0.26  # the largest of 130,816 pairs of 512: 6 standard errors


COMPILED_MASK = """
import sys, torch
from alexprep.model.networks.layers import dropout_keys, mask

compiled, keys = torch.compile(mask), dropout_keys(1, 5, torch.arange(64)).to(sys.argv[1])
for place in ((6, 4096, 0), (7, 4096, 0), (7, 100, 1948)):
    assert compiled(keys, *place).equal(mask(keys, *place)), place
"""


@pytest.mark.process
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_compiled_mask_is_the_same(device):
    """What a compiler makes of 64-bit constants and an index is its own affair. In a process that is not checked: it would compile the checks."""
    if device == "cpu" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    subprocess.run([sys.executable, "-c", COMPILED_MASK, device], check=True)


def test_masks_are_fixed_for_ever():
    """Resumed runs rely on them, on every device."""
    bits = mask(dropout_keys(2**64 - 1, 123_456, torch.tensor([0, 1_281_166])), 7, 16).int()

    assert bits.tolist() == GOLDEN_MASK


GOLDEN_MASK = [[0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0], [1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0]]
