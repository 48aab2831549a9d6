"""Analyse predictions: errors by class, confusions between classes, and calibration."""

from dataclasses import dataclass

import torch

from .evaluator import Predictions, interval


@dataclass(frozen=True)
class ClassRow:
    """One class of the evaluated split; errors are shares of its images."""

    label: int
    count: int
    top1_error: float
    top5_error: float
    interval: tuple[float, float]  # 95 %, of top1_error
    taken_for: int | None  # most frequent wrong prediction for its images; None if all are right


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were predicted as another."""

    label: int
    predicted: int
    count: int
    share: float  # of the class's images


@dataclass(frozen=True)
class Bin:
    """Images whose best class has a probability in (low, high]."""

    low: float
    high: float
    count: int
    confidence: float  # mean probability of the best class
    accuracy: float  # share of the images whose best class is the true one


@dataclass(frozen=True)
class Calibration:
    """Whether predictions with probability p are right in a share p of the cases.

    The measure is the expected calibration error with bins of equal width (Guo et al. 2017).
    """

    error: float  # mean over all images of |accuracy - confidence| in the image's bin
    bins: tuple[Bin, ...]  # the non-empty ones


def by_class(found: Predictions) -> list[ClassRow]:
    """Return a row for each class that has images, in the order of the labels."""
    rows = []
    worst = {pair.label: pair.predicted for pair in reversed(confusions(found))}
    hit = found.best == found.labels[:, None]
    for label, count in zip(*(values.tolist() for values in torch.unique(found.labels, return_counts=True)), strict=True):
        own = hit[found.labels == label]
        top1, top5 = (int((~right).sum()) / count for right in (own[:, 0], own.any(1)))
        rows.append(ClassRow(label, count, top1, top5, interval(top1, count), worst.get(label)))
    return rows


def confusions(found: Predictions, most: int | None = None) -> list[Confusion]:
    """Return the pairs of confused classes, the most frequent first (then by label)."""
    wrong = found.best[:, 0] != found.labels
    pairs, counts = torch.unique(torch.stack([found.labels[wrong], found.best[wrong, 0]], 1), dim=0, return_counts=True)
    sizes = torch.bincount(found.labels) if len(found.labels) else found.labels
    order = sorted(range(len(pairs)), key=lambda i: (-int(counts[i]), pairs[i].tolist()))[:most]
    return [
        Confusion(label, predicted, int(counts[i]), int(counts[i]) / int(sizes[label])) for i in order for label, predicted in [pairs[i].tolist()]
    ]


def calibration(found: Predictions, bins: int = 15) -> Calibration:
    """Return how well the best class's probability is calibrated, in bins of equal width."""
    confidence, right = found.p[:, 0].double(), (found.best[:, 0] == found.labels).double()
    number = (confidence * bins).ceil().long().clamp(1, bins) - 1
    filled, error = [], 0.0
    for i in range(bins):
        own = number == i
        count = int(own.sum())
        if count:
            said, true = float(confidence[own].mean()), float(right[own].mean())
            filled.append(Bin(i / bins, (i + 1) / bins, count, said, true))
            error += abs(true - said) * count / len(found.labels)
    return Calibration(error, tuple(filled))


def worst_mistakes(found: Predictions, most: int) -> list[int]:
    """Return the indices (in `found`) of at most `most` wrong images whose wrong answers have the highest probabilities, highest first."""
    wrong = (found.best[:, 0] != found.labels).nonzero()[:, 0]
    return wrong[found.p[wrong, 0].argsort(descending=True, stable=True)][:most].tolist()
