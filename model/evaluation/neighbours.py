"""Find the images that are nearest in the last hidden layer (paper, section 6.1 and figure 4)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor, nn

from ..errors import TrainingError


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest images of each of q queries, the nearest first."""

    records: Int64[Tensor, "q k"]
    distances: Float64[Tensor, "q k"]  # Euclidean


def features(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (features, labels, records) of each batch of images [b,3,h,w].

    The features are the inputs of fc8: float32[b,d], d = 4096 units of fc7 for AlexNet. Raise
    TrainingError if the network has no fc8.
    """
    last = getattr(model, "fc8", None)
    if not isinstance(last, nn.Module):
        raise TrainingError("this network has no fc8, whose inputs are the features: use one of this project's AlexNets")
    taken: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    training = model.training
    model.eval()
    try:
        for images, labels, records in batches:
            with torch.inference_mode():
                model(images)
            yield taken.pop().float(), labels, records
    finally:
        hook.remove()
        model.train(training)


def nearest(queries: Float32[Tensor, "q d"], blocks: Iterable[tuple[Tensor, Tensor, Tensor]], count: int) -> Neighbours:
    """Return the `count` images whose features are nearest to each query's.

    `blocks` are what `features` yields. The search is exact: every distance is computed, from differences in float64.
    It handles one block at a time and keeps only the nearest. Of equal distances the lower record comes first.
    """
    wide = queries.double()
    records = torch.empty(len(wide), 0, dtype=torch.int64, device=wide.device)
    distances = torch.empty(len(wide), 0, dtype=torch.float64, device=wide.device)
    for values, _, numbers in blocks:
        found = torch.cdist(wide, values.double(), compute_mode="donot_use_mm_for_euclid_dist")
        records, distances = _best(torch.cat([records, numbers.expand(len(wide), -1)], 1), torch.cat([distances, found], 1), count)
    return Neighbours(records, distances)


def _best(records: Int64[Tensor, "q n"], distances: Float64[Tensor, "q n"], count: int) -> tuple[Int64[Tensor, "q k"], Float64[Tensor, "q k"]]:
    by_record = records.argsort(dim=1)
    order = by_record.gather(1, distances.gather(1, by_record).argsort(dim=1, stable=True))[:, :count]
    return records.gather(1, order), distances.gather(1, order)
