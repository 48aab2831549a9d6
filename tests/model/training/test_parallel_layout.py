"""A network on several ranks is the network on one: losses, gradients, weights over 20 updates, and what each rank sends."""

import dataclasses

import pytest
import torch
from alexprep.model.config import Ablations
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.events import StepLog
from alexprep.model.networks.alexnet import AlexNet
from alexprep.model.networks.partition import sent
from alexprep.model.training.optimizer import RATES, PaperSGD
from alexprep.model.training.parallel_layout import ParallelLayout, bytes_a_step, choose, lay_out, unfit
from alexprep.model.training.schedule import Timetable
from alexprep.model.training.trainer import Trainer, TrainerConfig

from ...support.ranks import on_ranks

STEPS, BATCH, CLASSES = 20, 8, 5  # five classes: the last rank's share of fc8 is padded


NETWORKS = {
    "source": {"preset": "source"},
    "paper": {"preset": "paper"},  # its norms sum over both towers' maps
    "caffe": {"preset": "caffe"},
    "no exchange": {"preset": "source", "switches": {"exchange": False}},
    "sixth": {"preset": "source", "switches": {"sixth": True}},
    "owt": {"preset": "owt"},
    "one-gpu": {"preset": "one-gpu"},
}


TWO_TOWERS = ("source", "paper", "caffe", "no exchange", "sixth")


CASES = [
    *((2, "towers", name) for name in TWO_TOWERS),
    *((2, "hybrid", name) for name in ("source", "owt", "one-gpu", "sixth")),
    *((2, "data", name) for name in ("source", "no exchange")),
    *((4, "towers", name) for name in ("source", "paper")),  # two copies of two towers
    *((4, "hybrid", name) for name in ("source", "owt")),
    (4, "data", "source"),
]


# Sums in another order. A gradient of float32 differs in its last places; twenty updates with momentum let it grow tenfold.
LOSSES, GRADIENTS, WEIGHTS = 2e-4, 2e-4, 2e-3


def network(name, **parts):
    given = NETWORKS[name]
    switches = Ablations(**given.get("switches", {}))
    return AlexNet(given["preset"], width=0.0625, classes=CLASSES, crop=64, seed=3, switches=switches, **parts)


def batches(step, feed, device):
    """One epoch of global batches from `step` on, this rank's part of each; a pure function of the step."""
    index, count = feed
    share = BATCH // count
    for s in range(step, STEPS):
        generator = torch.Generator().manual_seed(s)
        images = torch.randn(BATCH, 3, 64, 64, generator=generator) * 60
        labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        mine = slice(index * share, (index + 1) * share)
        records = torch.arange(BATCH)[mine] + BATCH * s
        yield images[mine].to(device, memory_format=torch.channels_last), labels[mine].to(device), records.to(device)


def train(name, ranks, layout_name, **settings):
    """Train over all steps; return losses, the first gradients and the last weights of the whole network, and the bytes sent in the last step."""
    whole = network(name).to(ranks.device)
    layout = lay_out(layout_name, ranks, whole) if ranks.world_size > 1 else ParallelLayout(ranks)
    model = whole
    if layout_name != "data":
        model = network(name, convs=layout.convs, fcs=layout.fcs).to(ranks.device)
        model.load_state_dict(layout.part(whole.state_dict()))
    rates = dataclasses.replace(RATES["source"])
    config = TrainerConfig(lr=0.002, log_steps=1, **settings)
    trainer = Trainer(model, PaperSGD(model, rates), Timetable(0.002, 1, ()), config, layout, epoch_steps=STEPS)
    losses, first, before, counted = [], {}, {}, {}
    for event in trainer.run(lambda step, _colour: batches(step, layout.feed, ranks.device), lambda: None, lambda _name: None):
        if isinstance(event, StepLog):
            losses.append(event.loss)
            if event.step == 1:
                first = layout.whole({key: parameter.grad.clone() for key, parameter in model.named_parameters()})
            counted, before = {key: sent[key] - before.get(key, 0) for key in sent} if event.step > 1 else {}, dict(sent)
    return {"losses": losses, "gradients": first, "weights": trainer.state_dict()["model"], "sent": counted}


def on_a_rank(rank, count, cases, device="cpu"):
    place = torch.device(device, rank) if device == "cuda" else torch.device(device)
    return {case: on_cpu(train(case[1], Ranks(rank, count, rank, place), case[0])) for case in cases}


def on_cpu(result):
    return {kind: {k: v.cpu() for k, v in value.items()} if kind in ("gradients", "weights") else value for kind, value in result.items()}


@pytest.fixture(scope="module")
def alone():
    return {name: train(name, Ranks(), "data") for name in NETWORKS}


@pytest.fixture(scope="module", params=[2, 4])
def together(request):
    count = request.param
    cases = [(layout, name) for ranks, layout, name in CASES if ranks == count]
    return count, cases, on_ranks(count, on_a_rank, cases)


@pytest.mark.process
@pytest.mark.gpu(2)
@pytest.mark.parametrize("layout", ["data", "towers", "hybrid"])
def test_two_gpus_are_the_network_on_one_cpu(alone, layout):
    """Over NCCL; a GPU's sums differ more from a CPU's than two ranks from one, and grow over the steps."""
    results = on_ranks(2, on_a_rank, [(layout, "source")], "cuda", backend="nccl")
    for result in (ranks[layout, "source"] for ranks in results):
        assert result["losses"][:5] == pytest.approx(alone["source"]["losses"][:5], rel=1e-3)
        for name, value in alone["source"]["gradients"].items():
            assert close(result["gradients"][name], value, 1e-3), name


def close(ours, theirs, bound):
    return float((ours - theirs).abs().max()) <= bound * float(theirs.abs().max())


@pytest.mark.process
def test_every_layout_is_the_network_on_one_rank(alone, together):
    _, cases, results = together
    for case in cases:
        expected = alone[case[1]]
        for result in (ranks[case] for ranks in results):
            assert result["losses"] == pytest.approx(expected["losses"], rel=LOSSES), case
            assert set(result["gradients"]) == set(expected["gradients"])
            for kind, bound in (("gradients", GRADIENTS), ("weights", WEIGHTS)):
                for name, value in expected[kind].items():
                    assert result[kind][name].shape == value.shape, (case, name)
                    assert close(result[kind][name], value, bound), (case, kind, name)


@pytest.mark.process
def test_ranks_send_as_many_bytes_as_was_reckoned(together):
    count, cases, results = together
    for layout, name in cases:
        reckoned = bytes_a_step(layout, network(name), count, BATCH, activation=4, gradient=4)
        for result in results:
            assert sum(result[layout, name]["sent"].values()) == pytest.approx(reckoned, rel=0.01), (layout, name)


def test_the_bytes_of_the_specs_table():
    """Section 8: MB that each of two ranks sends one way at bf16 activations; gradients of 2 or 4 bytes."""
    with torch.device("meta"):
        whole = AlexNet("source")
    for batch, towers, hybrid in ((128, 15.5, 9.1), (512, 62.1, 22.5), (1024, 124.3, 40.3)):
        for name, expected in (("towers", towers), ("hybrid", hybrid)):
            assert bytes_a_step(name, whole, 2, batch, activation=2, gradient=2) / 1e6 == pytest.approx(expected, rel=0.03)
        for gradient, expected in ((2, 121.9), (4, 243.9)):
            assert bytes_a_step("data", whole, 2, batch, activation=2, gradient=gradient) / 1e6 == pytest.approx(expected, rel=0.001)


def test_auto_takes_what_sends_the_fewest_bytes_and_says_why():
    with torch.device("meta"):
        whole, owt = AlexNet("source"), AlexNet("owt")
    assert choose("auto", 1, whole, 128, activation=4, gradient=4) == ("data", "")
    name, reason = choose("auto", 2, whole, 128, activation=2, gradient=2)
    assert (name, "towers 15" in reason, "data 121.9" in reason) == ("hybrid", True, True)
    assert choose("auto", 3, owt, 128, activation=2, gradient=2)[0] == "data"  # 4096 units are no multiple of 3
    assert choose("data", 2, whole, 128, activation=2, gradient=2) == ("data", "")
    assert (
        choose("auto", 2, AlexNet("source", width=0.05, classes=2, crop=64), 4096, activation=4, gradient=2)[0] == "data"
    )  # few weights, many images


@pytest.mark.parametrize(
    ("layout", "name", "count", "message"),
    [
        ("towers", "owt", 2, "one tower"),
        ("towers", "source", 3, "even number of ranks"),
        ("hybrid", "source", 3, "cannot be shared by 3"),
        ("hybrid", "no exchange", 2, "use towers or data"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout, name, count, message):
    assert message in unfit(layout, network(name), count)
    with pytest.raises(TrainingError, match=message):
        lay_out(layout, Ranks(0, count), network(name))


def test_a_norm_that_sees_more_maps_than_the_other_tower_has_is_refused():
    assert "larger --width" in unfit("towers", AlexNet("paper", width=0.02, classes=2), 2)
