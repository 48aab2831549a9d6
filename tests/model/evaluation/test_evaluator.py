"""How errors are counted, and over how many views and ranks."""

import math

import pytest
import torch
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.evaluation.evaluator import evaluate, probabilities
from torch import nn


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
