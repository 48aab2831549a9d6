"""Split one network over several ranks: a rank's part of each layer, and how it gathers the others.

    data      every rank has the whole network and its part of the batch; gradients are averaged
              (not used in 2012)
    towers    every rank has one tower and sees the same images; maps are exchanged before conv3,
              fc6, fc7 and fc8 (the paper's own layout)
    hybrid    convolutions as in data, fully connected layers split by their units ("One weird
              trick", 2014)

All parameters are split by rows (the first dimension), which are a layer's maps or units.
"""

from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor, distributed

# Bytes that this rank has sent, by operation; benchmarks and tests read it
sent: Counter[str] = Counter()


class Partition:
    """One of `of` equal parts of every layer's maps or units.

    `group` is the process group of the ranks that hold the parts.
    """

    def __init__(self, index: int = 0, of: int = 1, group: object = None, *, batches: bool = False) -> None:
        """Take part `index`; with `batches`, ranks hold different images, which `batch` gathers."""
        self.index, self.of, self.group, self.batches = index, of, group, batches

    def share(self, units: int) -> int:
        """Return how many of a layer's units this rank has. Raise ValueError if the units cannot be shared equally."""
        if units % self.of:
            raise ValueError(f"{units} units cannot be shared equally by {self.of} ranks")
        return units // self.of

    def share_padded(self, units: int) -> int:
        """Return how many of a layer's units this rank has, rounded up. The last ranks may have units that are not used."""
        return -(-units // self.of)

    def rows(self, whole: Float[Tensor, "units ..."]) -> Float[Tensor, "share ..."]:
        """Return this rank's rows of a whole layer's parameter; rows beyond its end are zero."""
        if self.of == 1:
            return whole
        count = self.share_padded(len(whole))
        mine = whole[self.index * count : (self.index + 1) * count]
        return torch.cat([mine, mine.new_zeros(count - len(mine), *mine.shape[1:])])

    def join(self, x: Float[Tensor, "b c ..."], *, alike: bool = False) -> Float[Tensor, "b all ..."]:
        """Return the maps or units of all parts.

        In the backward pass, each part gets the sum of all ranks' gradients for it. With `alike`,
        all ranks compute the same loss and have the same gradient, which is taken once.
        """
        return x if self.of == 1 else _Join.apply(x, self, 1, alike, 1.0)  # type: ignore[no-untyped-call]

    def batch(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "all n"]:
        """Return the images of all ranks if these hold different ones, else `x`.

        In the backward pass, the gradient is multiplied by the number of ranks, because the
        gradients of the layers before are then averaged over the ranks.
        """
        if not self.batches:
            return x
        return _Join.apply(x, self, 0, False, float(self.of))  # type: ignore[no-untyped-call]  # noqa: FBT003

    def halo(self, x: Float[Tensor, "b c h w"], reach: int) -> tuple[Float[Tensor, "b wider h w"], int]:
        """Return `x` with the `reach` neighbouring maps of the ranks before and after it.

        Also return how many maps were added before `x`: none on the first rank.
        """
        edge = torch.cat([x[:, :reach], x[:, -reach:]], 1)
        edges = self.join(edge)
        before = edges[:, (2 * self.index - 1) * reach : 2 * self.index * reach] if self.index else x[:, :0]
        after = edges[:, 2 * (self.index + 1) * reach : (2 * self.index + 3) * reach] if self.index + 1 < self.of else x[:, :0]
        return torch.cat([before, x, after], 1), before.shape[1]


WHOLE = Partition()


class _Join(torch.autograd.Function):
    """All-gather along a dimension, whose gradient is a reduce-scatter."""

    @staticmethod
    def forward(ctx, x: Tensor, split: Partition, dim: int, alike: bool, factor: float) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001, FBT001
        ctx.split, ctx.dim, ctx.alike, ctx.factor = split, dim, alike, factor
        mine = _last(x, dim)
        parts = [torch.empty_like(mine) for _ in range(split.of)]
        distributed.all_gather(parts, mine, group=split.group)
        sent["gather"] += mine.nbytes * (split.of - 1)
        return _back(torch.cat(parts, -1 if dim else 0), x.ndim, dim)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        split = ctx.split
        whole = _last(grad, ctx.dim)
        parts = [part.contiguous() for part in whole.chunk(split.of, -1 if ctx.dim else 0)]
        mine = parts[split.index]
        if not ctx.alike:
            mine = torch.empty_like(mine)
            distributed.reduce_scatter(mine, parts, group=split.group)
            sent["scatter"] += mine.nbytes * (split.of - 1)
        mine = mine * ctx.factor if ctx.factor != 1 else mine
        return _back(mine, grad.ndim, ctx.dim), None, None, None, None


def _last(x: Tensor, dim: int) -> Tensor:
    """Return x contiguous, with the map dimension last: the memory order of channels_last."""
    return (x.movedim(1, -1) if dim and x.ndim == 4 else x).contiguous()


def _back(x: Tensor, ndim: int, dim: int) -> Tensor:
    return x.movedim(-1, 1) if dim and ndim == 4 else x
