"""The network: the spec's numbers, and each layer against its formula."""

import numpy as np
import pytest
import torch
from alexprep.model.alexnet import PRESETS, AlexNet, multiply_adds, parameters
from alexprep.model.layers import Dropout, ResponseNorm, WithinMapNorm, dropout_keys, mask
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn


@pytest.mark.parametrize("preset", PRESETS)
def test_the_papers_sizes(preset):
    """Spec section 3: 60,965,224 parameters, 724,406,816 multiply-adds."""
    model = AlexNet(preset)

    assert parameters(model) == 60_965_224
    assert multiply_adds(model) == 724_406_816


def test_the_shapes_are_the_papers():
    model = AlexNet(width=0.25, classes=10)
    shapes = {}
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
    model.eval()(torch.zeros(1, 3, 224, 224))

    assert [shapes[f"conv{i}"][1:] for i in range(1, 6)] == [(55, 55), (27, 27), (13, 13), (13, 13), (13, 13)]
    assert model.fc6.in_features == 64 * 6 * 6
    assert shapes["fc8"] == (10,)


def test_the_55th_window_hangs_over_the_right_and_bottom_edge():
    """The original's ceil: window 54 starts at pixel 216 and sees 8 pixels and 3 zeros; window 0 sees no padding."""
    model = AlexNet("paper", width=0.05, classes=2).eval()
    rows = {}
    model.conv1.register_forward_hook(lambda _layer, _inputs, output: rows.update(out=output))
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        model(image)
        expected = nn.functional.conv2d(nn.functional.pad(image[:, :, 216:, 216:], (0, 3, 0, 3)), model.conv1.weight, model.conv1.bias)
        first = nn.functional.conv2d(image[:, :, :11, :11], model.conv1.weight, model.conv1.bias)

    assert torch.allclose(rows["out"][0, :, 54, 54], expected[0, :, 0, 0], atol=1e-6)
    assert torch.allclose(rows["out"][0, :, 0, 0], first[0, :, 0, 0], atol=1e-6)


def test_initial_weights_are_the_specs():
    for preset, std in (("paper", 0.01), ("source", 0.03)):
        model = AlexNet(preset, classes=100)
        assert model.conv1.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert model.conv4.weight.std().item() == pytest.approx(std, rel=0.05)
        assert model.fc7.weight.std().item() == pytest.approx(0.01, rel=0.01)
        assert {name: layer.bias[0].item() for name, layer in model.named_children() if hasattr(layer, "bias")} == {
            "conv1": 0,
            "conv2": 1,
            "conv3": 0,
            "conv4": 1,
            "conv5": 1,
            "fc6": 1,
            "fc7": 1,
            "fc8": 0,
        }


def test_initial_weights_follow_from_the_seed():
    a, b, c = (AlexNet(width=0.1, classes=3, seed=seed).state_dict() for seed in (1, 1, 2))

    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


def test_conv2_sees_its_own_tower_and_conv3_both():
    model = AlexNet("source", width=0.1, classes=3).eval()
    outputs = {}
    for name in ("conv2", "conv3"):
        getattr(model, name).register_forward_hook(lambda _l, _i, output, name=name: outputs.setdefault(name, []).append(output))
    image = torch.rand(1, 3, 224, 224) * 255
    with torch.no_grad():
        model(image)
        model.conv1.weight[: model.conv1.out_channels // 2] = 0  # silence the first tower
        model(image)
    (before2, after2), (before3, after3) = outputs["conv2"], outputs["conv3"]
    half2, half3 = before2.shape[1] // 2, before3.shape[1] // 2

    assert torch.equal(before2[:, half2:], after2[:, half2:])  # norms stay within towers too
    assert not torch.equal(before2[:, :half2], after2[:, :half2])
    assert not torch.equal(before3[:, half3:], after3[:, half3:])


def test_the_presets_differ_where_the_spec_says():
    """Layer 1 of `source` normalises before the ReLU, so that negative responses count."""
    paper, source = (AlexNet(preset, width=0.1, classes=3).eval() for preset in ("paper", "source"))
    seen = {}
    for name, model in (("paper", paper), ("source", source)):
        model.norm1.register_forward_hook(lambda _l, inputs, _o, name=name: seen.update({name: inputs[0].min().item()}))
        with torch.no_grad():
            model(torch.randn(1, 3, 224, 224) * 100)

    assert seen["paper"] == 0
    assert seen["source"] < 0
    assert paper.norm1.alpha == 1e-4
    assert source.norm1.alpha == pytest.approx(1e-4 / 5)
    assert (paper.norm1.towers, source.norm1.towers) == (1, 2)
    assert isinstance(source.within2, WithinMapNorm)
    assert not isinstance(paper.within2, WithinMapNorm)


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
    layer = ResponseNorm(maps, alpha=alpha, towers=towers).double()

    assert np.allclose(layer(x).numpy(), scalar_norm(x.numpy(), alpha, 2, 5, towers), rtol=1e-12)


def test_response_normalisation_agrees_with_torchs_own_forward_and_backward():
    x = (torch.randn(4, 96, 9, 9) * 20).requires_grad_()
    weight = torch.randn_like(x)
    ours, theirs = ResponseNorm(96, alpha=1e-4 / 5), nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)
    (grad_ours,), (grad_theirs,) = (torch.autograd.grad((layer(x) * weight).sum(), x) for layer in (ours, theirs))

    assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert torch.allclose(grad_ours, grad_theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("towers", [1, 2])
def test_the_gradient_of_response_normalisation_is_right(towers):
    x = (torch.randn(2, 8, 3, 3, dtype=torch.float64) * 30).requires_grad_()

    assert torch.autograd.gradcheck(ResponseNorm(8, alpha=1e-3, towers=towers).double(), x)


def test_within_map_normalisation_is_its_formula():
    x = torch.randn(1, 2, 7, 7, dtype=torch.float64) * 40
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    expected = torch.empty_like(x)
    for i in range(7):
        for j in range(7):
            expected[..., i, j] = x[..., i, j] / (1 + 1e-3 / 25 * (padded[..., i : i + 5, j : j + 5] ** 2).sum((-1, -2))) ** 0.75

    assert torch.allclose(WithinMapNorm()(x), expected, rtol=1e-12)


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


def test_masks_are_fixed_for_ever():
    """Resumed runs rely on them, on every device."""
    bits = mask(dropout_keys(2**64 - 1, 123_456, torch.tensor([0, 1_281_166])), 7, 16).int()

    assert bits.tolist() == GOLDEN_MASK


GOLDEN_MASK = [[0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0], [1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0]]


@pytest.mark.gpu
@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_on_the_gpu_is_the_cpu_s(preset):
    """Masks to the bit; logits and gradients to float32 rounding."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.backends.cudnn.allow_tf32 = False
    keys, images = dropout_keys(3, 7, torch.arange(8)), torch.randn(8, 3, 64, 64) * 70
    results = []
    for device in ("cpu", "cuda"):
        model = AlexNet(preset, width=0.25, classes=10, crop=64).to(device).train()
        assert mask(keys.to(device), 6, 4096).cpu().equal(mask(keys, 6, 4096))
        assert dropout_keys(3, 7, torch.arange(8, device=device)).cpu().equal(keys)
        logits = model(images.to(device), keys.to(device))
        logits.square().mean().backward()
        results.append([logits.detach().cpu(), *(p.grad.cpu() for p in model.parameters())])

    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))


@pytest.mark.parametrize("options", [{"preset": "alexnet"}, {"classes": 1}, {"width": 0}, {"crop": 63}], ids=str)
def test_a_network_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        AlexNet(**options)


def test_the_smallest_crop_works():
    assert AlexNet(width=0.1, classes=3, crop=64).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_signal_is_alive_at_the_start_on_raw_pixels(preset):
    """Spec section 3: with raw 0..255 pixels the logits of different images differ; `source` by several times more."""
    images = (torch.rand(8, 3, 8, 8) * 255).repeat_interleave(28, 2).repeat_interleave(28, 3) - 127
    with torch.no_grad():
        spread = AlexNet(preset, classes=100).eval()(images).std(0).mean().item()

    assert spread > {"paper": 0.001, "source": 0.01}[preset]
