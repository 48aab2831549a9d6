"""The trainer: which steps it takes, what it saves, where it ends, and that a resumed one is an undisturbed one."""

import copy

import pytest
import torch
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.networks.alexnet import AlexNet
from alexprep.model.training.optimizer import RATES, PaperSGD
from alexprep.model.training.parallel_layout import ParallelLayout
from alexprep.model.training.schedule import SCRIPT, Timetable
from alexprep.model.training.trainer import Trainer, TrainerConfig

SMALL = {"width": 0.05, "classes": 4, "crop": 64}


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
