"""The three layers of 2012 that torch has not, or not in this form: two response normalisations and the dropout."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels import normalise, normalise_within, takes


class ResponseNorm(nn.Module):
    """Local response normalisation across maps (paper, section 3.3): x / (k + alpha * sum of x**2 over five maps) ** 0.75.

    `alpha` multiplies the sum itself, as in the paper's formula; torch's LocalResponseNorm divides it by five first.
    With `towers` > 1 the sum stays within each of that many equal groups of maps.
    """

    reach = 2  # maps to either side that a sum sees

    def __init__(self, *, alpha: float, k: float = 2.0, towers: int = 1) -> None:
        """Take the formula's constants."""
        super().__init__()
        self.alpha, self.k, self.towers = alpha, k, towers

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x, normalised; computed in float32 or better, whatever x is of."""
        if takes(x, self.towers) and not torch.compiler.is_compiling():
            return _Norm.apply(x, self.towers, self.alpha, self.k)  # type: ignore[no-untyped-call]
        return plain_norm(x, self.towers, self.alpha, self.k)


def plain_norm(x: Float[Tensor, "b c h w"], towers: int, alpha: float, k: float) -> Float[Tensor, "b c h w"]:
    """Return the formula of `ResponseNorm`; autograd finds its gradient, and torch.compile makes one pass of it."""
    reach, wide = ResponseNorm.reach, x if x.dtype == torch.float64 else x.float()
    squares = F.pad(wide.square().reshape(x.shape[0], towers, -1, *x.shape[2:]), (0, 0, 0, 0, reach, reach))
    maps = x.shape[1] // towers
    sums = sum((squares[:, :, i : i + maps] for i in range(1, 2 * reach + 1)), squares[:, :, :maps])
    root = torch.rsqrt(k + alpha * sums.flatten(1, 2))
    return (wide * (root * root.sqrt())).to(x.dtype)  # base ** -0.75


class _Norm(torch.autograd.Function):
    """The compiled pass, which keeps nothing but x for the way back."""

    @staticmethod
    def forward(ctx, x: Tensor, towers: int, alpha: float, k: float) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.save_for_backward(x)
        ctx.facts = (towers, alpha, k)
        return normalise(x, towers, alpha, k)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, (towers, alpha, k) = ctx.saved_tensors[0], ctx.facts
        return normalise(x, towers, alpha, k, grad), None, None, None


class WithinMapNorm(nn.Module):
    """Response normalisation within each map, over a 5x5 window: x / (1 + 1e-3/25 * sum of x**2) ** 0.75 (2012 code, layer 2)."""

    alpha = 1e-3 / 25  # of the sum

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x, normalised; computed in float32 or better, whatever x is of."""
        if takes(x, 1) and not torch.compiler.is_compiling():
            return _Within.apply(x, self.alpha)  # type: ignore[no-untyped-call]
        return plain_within(x, self.alpha)


def plain_within(x: Float[Tensor, "b c h w"], alpha: float) -> Float[Tensor, "b c h w"]:
    """Return the formula of `WithinMapNorm`; autograd finds its gradient."""
    wide = x if x.dtype == torch.float64 else x.float()
    root = torch.rsqrt(1 + 25 * alpha * F.avg_pool2d(wide.square(), 5, stride=1, padding=2))
    return (wide * (root * root.sqrt())).to(x.dtype)  # base ** -0.75


class _Within(torch.autograd.Function):
    """The compiled pass (of a forward pass of `source` in float32 the formula in torch took a fifth)."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: float) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        ctx.save_for_backward(x)
        ctx.alpha = alpha
        return normalise_within(x, alpha)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        return normalise_within(ctx.saved_tensors[0], ctx.alpha, grad), None


class Dropout(nn.Module):
    """Dropout as of 2012 (paper, section 4.2): half the units are set to 0 in training; at test time all are halved.

    The mask is a pure function of (key of the image, layer, unit), so it does not depend on how a batch is split over
    devices, and a resumed run drops the same units. `inverted`, as later everywhere: those that stay are doubled in training instead.
    """

    def __init__(self, layer: int, *, first: int = 0, inverted: bool = False) -> None:
        """Take a number that tells this layer's masks from those of the others, and the number of the first unit that is here."""
        super().__init__()
        self.layer, self.first, self.inverted = layer, first, inverted

    def forward(self, x: Float[Tensor, "b n"], keys: Int64[Tensor, "b"] | None) -> Float[Tensor, "b n"]:
        """Return x with units dropped, or halved; in training each image needs a key (see `dropout_keys`)."""
        if not self.training:
            return x if self.inverted else x * 0.5
        if keys is None:
            raise ValueError("in training mode the network needs a dropout key for each image: model(images, keys)")
        kept = x * mask(keys, self.layer, x.shape[1], self.first)
        return kept * 2 if self.inverted else kept


class NoDropout(nn.Module):
    """Stands where the others have `Dropout`."""

    def forward(self, x: Float[Tensor, "b n"], keys: Int64[Tensor, "b"] | None) -> Float[Tensor, "b n"]:  # noqa: ARG002
        """Return x."""
        return x


class GroupedLinear(nn.Module):
    """A fully connected layer in `groups` equal parts, each of which sees its own part of the inputs (of flattened maps: its tower's)."""

    def __init__(self, inputs: int, units: int, groups: int) -> None:
        """Take the inputs and units of all groups."""
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(units, inputs // groups))
        self.bias = nn.Parameter(torch.empty(units))

    def forward(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b units"]:
        """Return the units' sums."""
        rows = x.reshape(x.shape[0], self.groups, -1).movedim(1, 0)
        weight, bias = self.weight.reshape(self.groups, -1, rows.shape[-1]), self.bias.reshape(self.groups, 1, -1)
        return torch.baddbmm(bias, rows, weight.mT).movedim(0, 1).flatten(1)


def dropout_keys(seed: int, step: int, records: Int64[Tensor, "b"]) -> Int64[Tensor, "b"]:
    """Return one key an image for this use of it: a hash of (seed, step, record)."""
    start = _mix(torch.tensor([seed & _LOW_63], device=records.device)) + step
    return _mix(_mix(start) ^ (records * _ODD))


def mask(keys: Int64[Tensor, "b"], layer: int, units: int, first: int = 0) -> Bool[Tensor, "b {units}"]:
    """Return which of `units` units from the `first` on stay: each with probability one half, the same on every device."""
    # ^ and not +: torch's compiler folds a sum with an index into it, in 32 bits, and Triton refuses what does not fit there
    unit = _mix(torch.arange(first, first + units, device=keys.device) ^ (layer << 32))
    return _mix(keys[:, None] ^ unit[None]) < 0


_LOW_63 = (1 << 63) - 1
_ODD, _MUL_1, _MUL_2 = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB  # odd; products wrap at 64 bits


def _mix(x: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """Return a bijective scramble of 64-bit integers (xor-shifts and odd multipliers)."""
    x = (x ^ _shift(x, 30)) * _MUL_1
    x = (x ^ _shift(x, 27)) * _MUL_2
    return x ^ _shift(x, 31)


def _shift(x: Int64[Tensor, "*n"], places: int) -> Int64[Tensor, "*n"]:
    """Return x shifted to the right with zeros coming in: torch's own shift keeps the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
