"""Compute top-1 and top-5 errors over views.

The softmax outputs of an image's views are averaged (paper, section 4.1), and those of several
networks too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from ..distributed import Ranks
from ..errors import TrainingError

FIVE = 5  # best classes kept per image
Batches = Iterable[tuple[Tensor, Tensor, Tensor]]
# Standard deviations around the mean within which 95 % of a normal distribution lie
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Evaluation:
    """Errors, as shares of 1; every image counts once, whatever the number of ranks."""

    count: int
    top1_error: float
    top5_error: float
    loss: float  # mean of -log of the averaged probability of the true class

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95 % intervals of both errors."""
        return {"top1_interval": interval(self.top1_error, self.count), "top5_interval": interval(self.top5_error, self.count)}


@dataclass(frozen=True, eq=False)
class Predictions:
    """A network's predictions for n images, on the CPU, in the order of their record numbers.

    k = min(5, classes).
    """

    records: Int64[Tensor, "n"]
    labels: Int64[Tensor, "n"]
    best: Int64[Tensor, "n k"]  # the most probable classes, best first
    p: Float32[Tensor, "n k"]  # their probabilities
    true_p: Float32[Tensor, "n"]  # probability of the true class

    def evaluation(self) -> Evaluation:
        """Return the errors. Raise TrainingError if there are no images or a probability is not finite."""
        count = len(self.records)
        if count == 0:
            raise TrainingError("nothing to evaluate: the split has no records")
        if not bool(self.p.isfinite().all() & self.true_p.isfinite().all()):
            raise TrainingError("the network's outputs are not finite: its weights have diverged; train with a lower --lr")
        hit = self.best == self.labels[:, None]
        wrong = [int((~right).sum()) for right in (hit[:, 0], hit.any(1))]
        loss = -float(self.true_p.double().clamp_min(1e-45).log().mean())
        return Evaluation(count, wrong[0] / count, wrong[1] / count, loss)


def evaluate(model: nn.Module, batches: Batches, ranks: Ranks) -> Evaluation:
    """Return the errors of `model` over all batches of all ranks; see `predict`."""
    return predict(outputs(model, batches), ranks).evaluation()


def outputs(model: nn.Module, batches: Batches, dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (class probabilities, labels, records) of each batch.

    The probabilities are float32[b,c], averaged over each image's views. A batch is (images, labels, records); images
    are float32[b,3,h,w], or float32[b,v,3,h,w] for v views each. `dtype` is that of the arithmetic, by autocast.
    """
    training = model.training
    model.eval()
    try:
        for images, labels, records in batches:
            with torch.inference_mode(), torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
                p = probabilities(model, images)
            yield p, labels, records
    finally:
        model.train(training)


def averaged(several: Iterable[Iterable[tuple[Tensor, Tensor, Tensor]]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the mean of several networks' `outputs` (paper, section 6: 5 CNNs, 7 CNNs).

    Raise TrainingError unless all networks see the same images in the same order.
    """
    for parts in zip(*several, strict=True):
        _, labels, records = parts[0]
        if not all(torch.equal(records, others) for _, _, others in parts):
            raise TrainingError("the networks of an ensemble must see the same records in the same order")
        yield torch.stack([p for p, _, _ in parts]).mean(0), labels, records


def predict(probabilities_of: Iterable[tuple[Tensor, Tensor, Tensor]], ranks: Ranks) -> Predictions:
    """Return the best classes of every image of all ranks, on every rank."""
    found: list[list[Tensor]] = [[], [], [], [], []]
    for p, labels, records in probabilities_of:
        best = p.topk(min(FIVE, p.shape[1]), dim=1)
        true = p.gather(1, labels[:, None])[:, 0]
        for part, value in zip(found, (records, labels, best.indices, best.values, true), strict=True):
            part.append(value)
    # the default: a rank may have no images
    width = ranks.largest(max((values.shape[1] for values in found[2]), default=0))
    shapes = [((0,), torch.int64), ((0,), torch.int64), ((0, width), torch.int64), ((0, width), torch.float32), ((0,), torch.float32)]
    whole = [
        ranks.gather(torch.cat([torch.empty(shape, dtype=dtype, device=ranks.device), *part]))
        for part, (shape, dtype) in zip(found, shapes, strict=True)
    ]
    order = whole[0].argsort()
    return Predictions(*(values[order] for values in whole))


def probabilities(model: nn.Module, images: Float[Tensor, "..."]) -> Float[Tensor, "b classes"]:
    """Return the class probabilities of each image, averaged over its views."""
    # one view at a time: a tenth of the memory, and faster on a CPU
    views = [images] if images.ndim == 4 else images.unbind(1)
    return torch.stack([model(view).float().softmax(1) for view in views]).mean(0)


def interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` images, after Wilson (1927). It stays within 0..1 and is also valid for few images."""
    if count == 0:
        return 0.0, 1.0
    centre = share + Z95 * Z95 / (2 * count)
    reach = Z95 * sqrt(share * (1 - share) / count + Z95 * Z95 / (4 * count * count))
    scale = 1 + Z95 * Z95 / count
    return max(0.0, (centre - reach) / scale) if share > 0 else 0.0, min(1.0, (centre + reach) / scale) if share < 1 else 1.0
