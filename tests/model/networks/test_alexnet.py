"""The network as a whole: the spec's shapes, initial weights and towers; its ablations; torchvision's weights in it."""

import numpy as np
import pytest
import torch
from alexprep.model.config import Ablations
from alexprep.model.networks.alexnet import TORCHVISION_MEAN, TORCHVISION_STD, AlexNet, from_torchvision
from alexprep.model.networks.layers import WithinMapNorm, dropout_keys, mask
from alexprep.model.networks.presets import PRESETS
from alexprep.model.networks.summary import describe
from alexprep.pipeline.imaging.codec import square
from torch import nn


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


@pytest.mark.process
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


SWITCHED = {
    "tanh": Ablations(activation="tanh"),
    "no norm": Ablations(norm=False),
    "pooling 2/2": Ablations(overlap=False),
    "no dropout": Ablations(dropout=False),
    "no exchange": Ablations(exchange=False),
    "sixth": Ablations(sixth=True),
}


@pytest.mark.parametrize("name", SWITCHED)
def test_what_the_ablations_change(name):
    """Layers and sizes of spec sections 3 and 6, and another result than the network as it was."""
    switches = SWITCHED[name]
    with torch.device("meta"):
        rows = {row.layer: row for row in describe(AlexNet("source", switches=switches))}
    assert ("norm1" in rows, "drop6" in rows, "conv6" in rows) == (name != "no norm", name != "no dropout", name == "sixth")
    if name == "no exchange":  # the authors' net 150: 160 maps a tower, 4096 units a tower on what their tower sees
        assert (rows["conv2"].output, rows["conv3"].towers, rows["fc6"].output, rows["fc6"].parameters) == ((320, 27, 27), 2, (8192,), 8192 * 4609)
    if name == "sixth":
        assert (rows["conv6"].output, rows["conv6"].kernel) == ((256, 6, 6), "3x3x256 / 1")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator) * 60
    plain, changed = (AlexNet(width=0.1, classes=3, crop=64, switches=s) for s in (Ablations(), switches))
    assert changed.train()(images, dropout_keys(0, 0, torch.arange(2))).isfinite().all()
    assert not torch.equal(plain.eval()(images), changed.eval()(images))


def test_without_exchange_a_tower_sees_nothing_of_the_other_before_fc7():
    model = AlexNet(width=0.1, classes=3, crop=64, switches=Ablations(exchange=False)).eval()
    seen = []
    model.fc6.register_forward_hook(lambda _l, _i, output: seen.append(output))
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64) * 255
        model(image)
        model.conv1.weight[: model.conv1.out_channels // 2] = 0
        model(image)
    half = seen[0].shape[1] // 2

    assert torch.equal(seen[0][:, half:], seen[1][:, half:])
    assert not torch.equal(seen[0][:, :half], seen[1][:, :half])


@pytest.mark.parametrize(("preset", "switches"), [("owt", {"exchange": False}), ("one-gpu", {"exchange": False})])
def test_one_tower_has_no_exchange_to_leave_out(preset, switches):
    with pytest.raises(ValueError, match="one tower"):
        AlexNet(preset, switches=Ablations(**switches))


def torchvisions_alexnet(classes):
    """Its layers, as torchvision documents them, with its names."""

    def conv(inputs, maps, size, **options):
        return [nn.Conv2d(inputs, maps, size, **options), nn.ReLU()]

    features = nn.Sequential(
        *conv(3, 64, 11, stride=4, padding=2),
        nn.MaxPool2d(3, 2),
        *conv(64, 192, 5, padding=2),
        nn.MaxPool2d(3, 2),
        *conv(192, 384, 3, padding=1),
        *conv(384, 256, 3, padding=1),
        *conv(256, 256, 3, padding=1),
        nn.MaxPool2d(3, 2),
    )
    hidden = [nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()]
    classifier = nn.Sequential(*hidden, nn.Linear(4096, classes))
    return nn.ModuleDict({"features": features, "classifier": classifier})


@pytest.mark.process
def test_torchvisions_weights_load_into_owt_and_give_its_logits():
    theirs = torchvisions_alexnet(7).eval()
    ours = AlexNet("owt", classes=7).eval()
    ours.load_state_dict(from_torchvision(theirs.state_dict()))
    pixels = torch.rand(2, 3, 224, 224) * 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (TORCHVISION_MEAN, TORCHVISION_STD))
    with torch.no_grad():
        expected = theirs["classifier"](theirs["features"]((pixels / 255 - mean) / std).flatten(1))
        result = ours(pixels - 255 * mean)

    assert torch.allclose(result, expected, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(ValueError, match=r"features\.0\.weight"):
        from_torchvision({})


@pytest.mark.gpu
@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_on_the_gpu_is_the_cpu_s(preset):
    """Masks to the bit; logits and gradients to float32 rounding."""
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


def signal(preset, images):
    """How much the logits of different images differ at the start."""
    with torch.no_grad():
        return AlexNet(preset).eval()(images).std(0).mean().item()


@pytest.mark.process
def test_the_signal_at_the_start_is_the_specs_on_real_images(real_images):
    """Spec section 3: raw + source 0.082, raw + paper 0.0075, normalised + paper 0.0002 (dead): ratios of 11 and 37."""
    photographs = [square(path.read_bytes(), 256).pixels for path in sorted(real_images.rglob("*.JPEG"))[::16]]
    pixels = torch.from_numpy(np.stack(photographs)[:, 16:240, 16:240].copy()).permute(0, 3, 1, 2).float()
    raw = pixels - pixels.mean((0, 2, 3), keepdim=True)
    mean, std = (255 * torch.tensor(values)[:, None, None] for values in (TORCHVISION_MEAN, TORCHVISION_STD))
    alive, weak, dead = signal("source", raw), signal("paper", raw), signal("paper", (pixels - mean) / std)

    assert 8 < alive / weak < 20
    assert 25 < weak / dead < 60
    assert alive > 0.02
    assert dead < 0.0003
