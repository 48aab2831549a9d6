"""How errors are counted, and over how many views and ranks."""

import math

import pytest
import torch
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.evaluation.evaluator import Predictions, averaged, evaluate, interval, predict, probabilities
from torch import nn

from ...support.predictions import predictions
from ...support.ranks import on_ranks


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


def test_intervals_are_wilsons():
    """Golden: 50 of 100 and 0 of 10, as statistics books give them; symmetric; never outside of 0..1."""
    assert interval(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert interval(0.0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert interval(1.0, 10) == pytest.approx((1 - 0.27753, 1.0), abs=1e-5)
    assert interval(0.3, 0) == (0.0, 1.0)


def test_an_ensemble_is_the_mean_of_the_probabilities():
    labels, records = torch.tensor([0]), torch.tensor([7])
    one, other = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.0, 1.0]])
    ((p, _, _),) = averaged([[(one, labels, records)], [(other, labels, records)]])

    assert torch.allclose(p, torch.tensor([[0.45, 0.55]]))
    with pytest.raises(TrainingError, match="same records"):
        list(averaged([[(one, labels, records)], [(other, labels, records + 1)]]))


def _gathered(rank, _count, p, labels):
    """Every image on one of three ranks, the last of which has none, in another order."""
    mine = torch.arange(len(labels))[rank::2].flip(0) if rank < 2 else torch.arange(0)
    batches = [(p[mine], labels[mine], mine)] if len(mine) else []
    found = predict(batches, Ranks(rank, 3))
    return [found.records, found.labels, found.best, found.p, found.true_p]


@pytest.mark.process
def test_predictions_of_several_ranks_are_those_of_one_on_every_rank():
    p, labels = torch.rand(9, 6, generator=torch.Generator().manual_seed(1)).softmax(1), torch.arange(9) % 6
    whole = predictions(p, labels)
    for values in on_ranks(3, _gathered, p, labels):
        for ours, theirs in zip((whole.records, whole.labels, whole.best, whole.p, whole.true_p), values, strict=True):
            assert torch.equal(ours, theirs)


def test_predictions_refuse_numbers_that_are_none():
    p = torch.tensor([[float("nan"), 0.5]])
    with pytest.raises(TrainingError, match="not finite"):
        predictions(p, [0]).evaluation()
    assert isinstance(predictions([[0.5, 0.5]], [1]), Predictions)
