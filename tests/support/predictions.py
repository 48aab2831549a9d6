"""Predictions that are given, not made."""

import torch
from alexprep.model.distributed import Ranks
from alexprep.model.evaluation.evaluator import predict


def predictions(p, labels):
    """Predictions of given probabilities."""
    p, labels = torch.as_tensor(p, dtype=torch.float32), torch.as_tensor(labels)
    return predict([(p, labels, torch.arange(len(labels)))], Ranks())
