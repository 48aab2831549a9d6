"""Top-1 and top-5 error over views: the softmax outputs of an image's views are averaged (paper, section 4.1)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .distributed import Ranks
from .errors import TrainingError


@dataclass(frozen=True)
class Evaluation:
    """Errors are shares of 1; every image counts once, at any number of ranks."""

    count: int
    top1_error: float
    top5_error: float
    loss: float  # mean of -log of the averaged probability of the true class


def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor, Tensor]], ranks: Ranks) -> Evaluation:
    """Return the errors of `model` over all batches of all ranks.

    A batch is (images, labels, records); images are float32[b,3,h,w], or float32[b,v,3,h,w] for v views each. Raises
    TrainingError if the network's outputs are not finite, or nothing was given.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=ranks.device)  # images, wrong, not among five, loss
    training = model.training
    model.eval()
    with torch.inference_mode():
        for images, labels, _ in batches:
            sums += _count(probabilities(model, images), labels)
    model.train(training)
    count, top1, top5, loss = ranks.sum(sums).tolist()
    if count == 0:
        raise TrainingError("nothing to evaluate: the split has no records")
    if loss != loss:  # noqa: PLR0124  (NaN)
        raise TrainingError("the network's outputs are not finite: its weights have diverged; train with a lower --lr")
    return Evaluation(int(count), top1 / count, top5 / count, loss / count)


def probabilities(model: nn.Module, images: Float[Tensor, "..."]) -> Float[Tensor, "b classes"]:
    """Return the class probabilities of each image, averaged over its views."""
    views = [images] if images.ndim == 4 else images.unbind(1)  # one view after the other: a tenth of the memory, and faster on a CPU
    return torch.stack([model(view).float().softmax(1) for view in views]).mean(0)


def _count(p: Float[Tensor, "b classes"], labels: Int64[Tensor, "b"]) -> Float[Tensor, "4"]:
    """Return (images, wrong, true class not among the five most probable, sum of -log p)."""
    true = p.gather(1, labels[:, None])
    best = p.topk(min(5, p.shape[1]), dim=1).indices == labels[:, None]
    loss = -true.double().clamp_min(1e-45).log().sum() if bool(p.isfinite().all()) else torch.tensor(float("nan"), device=p.device)
    wrong = torch.stack([~best[:, 0], ~best.any(1)]).sum(1)
    return torch.cat([torch.tensor([len(labels)], device=p.device), wrong.double(), loss[None].double()])
