"""Update rule, schedules, evaluation, and the trainer itself."""

import copy
import math

import pytest
import torch
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.evaluation.evaluator import evaluate, probabilities
from alexprep.model.networks import kernels
from alexprep.model.networks.alexnet import AlexNet
from alexprep.model.training.optimizer import RATES, PaperSGD, plain_update
from alexprep.model.training.parallel_layout import ParallelLayout
from alexprep.model.training.schedule import SCRIPT, Phase, Plateau, Timetable, drops_at
from alexprep.model.training.trainer import Trainer, TrainerConfig
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


@pytest.mark.parametrize("shape", [(7,), (300, 301), (4, 3, 5, 5)])
def test_the_compiled_update_is_the_plain_one(shape):
    """To float32 rounding; several threads' shares, and memory in channels_last, too."""
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    weight, velocity, grad = (torch.randn(shape).to(memory_format=layout) for _ in range(3))
    plain = [[value.double()] for value in (weight, velocity, grad)]
    assert kernels.update(weight, velocity, grad, 0.9, 0.0005 * 0.01, 0.01), "the extension is not there"
    plain_update(*plain, 0.9, 0.0005 * 0.01, 0.01)

    assert torch.allclose(velocity.double(), plain[1][0], rtol=1e-6, atol=1e-6)
    assert torch.allclose(weight.double(), plain[0][0], rtol=1e-6, atol=1e-6)
    assert not kernels.update(weight.double(), velocity.double(), grad.double(), 0.9, 0.0, 0.01)
    assert not kernels.update(weight, velocity, grad[..., :1], 0.9, 0.0, 0.01)


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


def test_the_script_is_the_authors_at_95_epochs():
    """Spec section 4: drops at 22, 49 and 81; colour off and conv1 / 10 at 66; conv1 frozen at 73; the end at 95."""
    script = Timetable(0.01, 95, SCRIPT)
    phases = [script.phase(epoch) for epoch in range(95)]
    changes = [(epoch, phase) for epoch, phase in enumerate(phases) if epoch == 0 or phase != phases[epoch - 1]]

    assert changes == [
        (0, Phase(0.01)),
        (22, Phase(0.001)),
        (49, Phase(0.0001)),
        (66, Phase(0.0001, 0.1, False)),
        (73, Phase(0.0001, 0.0, False)),
        (81, Phase(0.00001, 0.0, False)),
    ]
    assert (script.finished(94), script.finished(95)) == (False, True)


def test_no_event_comes_before_the_first_epoch_however_short_the_run():
    assert Timetable(0.01, 1, SCRIPT).phase(0) == Timetable(0.01, 2, SCRIPT).phase(0) == Phase(0.01)


def test_a_shorter_script_keeps_its_shares():
    script = Timetable(0.01, 19, SCRIPT)

    assert [epoch for epoch in range(1, 19) if script.phase(epoch) != script.phase(epoch - 1)] == [4, 10, 13, 15, 16]


def test_fixed_drops_come_at_their_shares_of_the_run():
    table = Timetable(0.01, 10, drops_at([0.8, 0.35]))

    assert [table.phase(epoch) for epoch in range(10)] == [Phase(0.01)] * 4 + [Phase(0.001)] * 4 + [Phase(0.0001)] * 2


def test_the_plateau_divides_by_ten_three_times_and_then_ends():
    schedule, epoch, rates = Plateau(0.01, epochs=90, patience=2), 0, []
    for error in [0.9, 0.8, 0.8, 0.9, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6]:
        if schedule.finished(epoch):
            break
        rates.append(schedule.phase(epoch).lr)
        copy = Plateau(0.01, epochs=90, patience=2)  # continuing from a checkpoint changes nothing
        copy.load_state_dict(schedule.state_dict())
        schedule = copy
        schedule.observe(error)
        epoch += 1

    assert rates == [0.01] * 4 + [0.001] * 3 + [0.0001] * 3 + [0.00001] * 2
    assert schedule.finished(epoch)
    assert Plateau(0.01, epochs=3, patience=2).finished(3)


class Table(nn.Module):
    """A network whose logits are the first pixels of its images."""

    def forward(self, images):
        return images[:, 0, 0]


def test_errors_are_counted_and_softmax_outputs_not_logits_are_averaged():
    """Two views: averaged logits would choose class 0, averaged probabilities choose class 1."""
    logits = torch.tensor([[[20.0, 10, 19.9, 0, 0, 0, 0], [0, 8, 0, 0, 0, 0, 0]], [[0, 0, 7, 1, 0, 0, 0], [0, 7, 0, 0, 0, 0, 0]]])
    images = logits[:, :, None, None].expand(2, 2, 3, 1, 7)
    p = probabilities(Table(), images)
    expected = logits.softmax(-1).mean(1)

    assert torch.allclose(p, expected)
    result = evaluate(Table(), [(images, torch.tensor([1, 3]), torch.arange(2))], Ranks())
    assert (result.count, result.top1_error) == (2, 0.5)
    assert result.top5_error == 0.0
    assert result.loss == pytest.approx(-(expected[0, 1].log() + expected[1, 3].log()).item() / 2)


def test_top5_counts_the_sixth_as_wrong():
    logits = torch.arange(7.0)[None].expand(7, 7)
    images = logits[:, None, None, :].expand(7, 3, 1, 7)
    result = evaluate(Table(), [(images, torch.arange(7), torch.arange(7))], Ranks())

    assert result.top1_error == pytest.approx(6 / 7)
    assert result.top5_error == pytest.approx(2 / 7)


def test_evaluation_leaves_the_network_in_training_and_refuses_what_is_not_finite():
    model = Table().train()
    images = torch.zeros(1, 3, 1, 7)
    evaluate(model, [(images, torch.tensor([0]), torch.tensor([0]))], Ranks())
    assert model.training
    with pytest.raises(TrainingError, match="not finite"):
        evaluate(model, [(images * math.nan, torch.tensor([0]), torch.tensor([0]))], Ranks())
    with pytest.raises(TrainingError, match="no records"):
        evaluate(model, [], Ranks())


def make_trainer(**settings):
    model = AlexNet(**SMALL)
    schedule = Timetable(0.01, 3, SCRIPT)
    return Trainer(
        model, PaperSGD(model, RATES["source"]), schedule, TrainerConfig(lr=0.01, log_steps=1, **settings), ParallelLayout(Ranks()), epoch_steps=4
    )


def fake_batches(step, _colour):
    """A pure function of the step, like the loader's."""
    for s in range(step, 4 * (step // 4 + 1)):
        generator = torch.Generator().manual_seed(s)
        yield torch.randn(8, 3, 64, 64, generator=generator) * 50, torch.randint(0, 4, (8,), generator=generator), torch.arange(8) + 8 * s


def run(trainer, states=None, error=0.5):
    from alexprep.model.evaluation.evaluator import Evaluation

    saved = states if states is not None else {}

    def save(name):
        saved.setdefault(name, []).append({"step": trainer.step, **{k: v for k, v in trainer.state_dict().items() if k == "best_error"}})

    events = [event.row() for event in trainer.run(fake_batches, lambda: Evaluation(10, error, error, 1.0), save)]
    return [event for event in events if event["event"] != "tick"]


def test_training_goes_through_every_step_and_evaluates_after_each_epoch():
    saved = {}
    events = run(make_trainer(), saved)

    assert [event["step"] for event in events if event["event"] == "step"] == list(range(1, 13))
    assert [(event["step"], event["epoch"]) for event in events if event["event"] == "eval"] == [(4, 1), (8, 2), (12, 3)]
    assert [state["step"] for state in saved["last"]] == [4, 4, 8, 8, 12, 12]  # before the validation and after it
    assert [state["step"] for state in saved["best"]] == [4]


def test_steps_and_checkpoint_steps_are_kept():
    saved = {}
    events = run(make_trainer(steps=7, checkpoint_steps=3), saved)

    assert events[-1]["step"] == 7
    assert [state["step"] for state in saved["last"]] == [3, 4, 4, 6, 7]


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 11])
def test_a_resumed_run_has_the_losses_and_weights_of_an_undisturbed_one_to_the_bit(stop):
    def told(trainer):
        return [{name: event[name] for name in ("step", "loss", "error", "train_error") if name in event} for event in run(trainer)]

    whole = make_trainer()
    expected = told(whole)
    first = make_trainer(steps=stop)
    events = told(first)
    second = make_trainer()
    second.load_state_dict(first.state_dict())
    events += told(second)

    assert events == expected
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True))


def test_the_training_error_is_the_mean_of_the_epochs_batches():
    trainer = make_trainer(accumulate=2)
    events = run(trainer)
    errors = [event["error"] for event in events if event["event"] == "step"]

    assert all(error * 8 == round(error * 8) for error in errors)  # eight images a batch
    assert [event["train_error"] for event in events if event["event"] == "eval"] == [pytest.approx(sum(errors[i : i + 4]) / 4) for i in (0, 4, 8)]


def test_training_can_end_with_the_epoch_that_is_good_enough():
    errors = [event["train_error"] for event in run(make_trainer()) if event["event"] == "eval"]
    target = sorted(errors)[1]  # reached by the second epoch at the latest but for one
    last = next(epoch for epoch, error in enumerate(errors, 1) if error <= target)
    trainer = make_trainer(until=target)
    assert run(trainer)[-1]["epoch"] == last

    again = make_trainer(until=target)
    again.load_state_dict(trainer.state_dict())
    assert [event for event in run(again) if event["event"] == "step"] == []
    further = make_trainer(until=min(errors) / 2)
    further.load_state_dict(trainer.state_dict())
    assert last == 3 or run(further)[-1]["epoch"] == 3


def test_an_epoch_whose_validation_was_killed_is_validated_on_resuming():
    first, kept = make_trainer(), {}

    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(first.run(fake_batches, killed, lambda name: kept.update({name: copy.deepcopy(first.state_dict())})))
    second = make_trainer()
    second.load_state_dict(kept["last"])
    events = run(second)

    assert second.step == 12
    assert [event["step"] for event in events if event["event"] == "eval"] == [4, 8, 12]


def test_a_diverging_run_stops_with_advice_and_saves_nothing():
    trainer = make_trainer()
    trainer.model.fc8.weight.data.fill_(float("inf"))
    saved = {}

    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step 1: .*lower --lr"):
        run(trainer, saved)
    assert not saved


def test_the_velocities_of_another_network_are_refused():
    optimizer = PaperSGD(AlexNet(**SMALL), RATES["paper"])

    with pytest.raises(ValueError, match="other layers"):
        optimizer.load_velocities({"conv1.weight": torch.zeros(1)})
