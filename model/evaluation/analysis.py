"""What predictions tell beside the error: by class, which classes are taken for which, and whether the probabilities can be believed."""

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
    taken_for: int | None  # the class that its images are most often taken for; None if all are right


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another."""

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
    accuracy: float  # share of them in which it is the true one


@dataclass(frozen=True)
class Calibration:
    """Whether of what is said with probability p a share of p is right (Guo et al. 2017: expected calibration error, equal bins)."""

    error: float  # mean of |accuracy - confidence| over all images, by bin
    bins: tuple[Bin, ...]  # those that are not empty


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
    """Return which classes were taken for which, the most frequent first (then by label)."""
    wrong = found.best[:, 0] != found.labels
    pairs, counts = torch.unique(torch.stack([found.labels[wrong], found.best[wrong, 0]], 1), dim=0, return_counts=True)
    sizes = torch.bincount(found.labels) if len(found.labels) else found.labels
    order = sorted(range(len(pairs)), key=lambda i: (-int(counts[i]), pairs[i].tolist()))[:most]
    return [
        Confusion(label, predicted, int(counts[i]), int(counts[i]) / int(sizes[label])) for i in order for label, predicted in [pairs[i].tolist()]
    ]


def calibration(found: Predictions, bins: int = 15) -> Calibration:
    """Return the reliability of the best class's probability in bins of equal width."""
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
    """Return the places (in `found`) of the wrong images whose wrong answer was given with the highest probability, the most certain first."""
    wrong = (found.best[:, 0] != found.labels).nonzero()[:, 0]
    return wrong[found.p[wrong, 0].argsort(descending=True, stable=True)][:most].tolist()
