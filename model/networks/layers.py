"""Layers of 2012 that torch lacks or defines differently.

These are two response normalisations, the dropout with its masks, and grouped linear layers.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from .kernels import normalise, normalise_within, takes


class ResponseNorm(nn.Module):
    """Local response normalisation across maps (paper, section 3.3).

    The formula is x / (k + alpha * sum of x**2 over five maps) ** 0.75. `alpha` multiplies the sum
    itself, as in the paper; torch's LocalResponseNorm divides it by five first. With `towers` > 1
    the sum stays within each of that many equal groups of maps.
    """

    reach = 2  # maps on either side that a sum includes

    def __init__(self, *, alpha: float, k: float = 2.0, towers: int = 1) -> None:
        """Take the formula's constants."""
        super().__init__()
        self.alpha, self.k, self.towers = alpha, k, towers

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x normalised, in x's dtype; computed in float32, or in float64 if x is float64."""
        if takes(x, self.towers) and not torch.compiler.is_compiling():
            return _Norm.apply(x, self.towers, self.alpha, self.k)  # type: ignore[no-untyped-call]
        return plain_norm(x, self.towers, self.alpha, self.k)


def plain_norm(x: Float[Tensor, "b c h w"], towers: int, alpha: float, k: float) -> Float[Tensor, "b c h w"]:
    """Return the formula of `ResponseNorm` in torch operations. Autograd derives its gradient, and torch.compile fuses it into one pass."""
    reach, wide = ResponseNorm.reach, x if x.dtype == torch.float64 else x.float()
    squares = F.pad(wide.square().reshape(x.shape[0], towers, -1, *x.shape[2:]), (0, 0, 0, 0, reach, reach))
    maps = x.shape[1] // towers
    sums = sum((squares[:, :, i : i + maps] for i in range(1, 2 * reach + 1)), squares[:, :, :maps])
    root = torch.rsqrt(k + alpha * sums.flatten(1, 2))
    return (wide * (root * root.sqrt())).to(x.dtype)  # base ** -0.75


class _Norm(torch.autograd.Function):
    """The compiled kernel; it saves only x for the backward pass."""

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
    """Response normalisation within each map, over a 5x5 window (2012 code, layer 2).

    The formula is x / (1 + 1e-3/25 * sum of x**2) ** 0.75.
    """

    alpha = 1e-3 / 25  # factor on the sum

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x normalised, in x's dtype; computed in float32, or in float64 if x is float64."""
        if takes(x, 1) and not torch.compiler.is_compiling():
            return _Within.apply(x, self.alpha)  # type: ignore[no-untyped-call]
        return plain_within(x, self.alpha)


def plain_within(x: Float[Tensor, "b c h w"], alpha: float) -> Float[Tensor, "b c h w"]:
    """Return the formula of `WithinMapNorm` in torch operations; autograd derives its gradient."""
    wide = x if x.dtype == torch.float64 else x.float()
    root = torch.rsqrt(1 + 25 * alpha * F.avg_pool2d(wide.square(), 5, stride=1, padding=2))
    return (wide * (root * root.sqrt())).to(x.dtype)  # base ** -0.75


class _Within(torch.autograd.Function):
    """The compiled kernel.

    In torch, the formula took a fifth of a forward pass of `source` in float32.
    """

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
    """Dropout of 2012 (paper, section 4.2): training zeroes half the units, test time halves all.

    The mask is a pure function of (key of the image, layer, unit), so it does not depend on how a
    batch is split over devices, and a resumed run drops the same units. `inverted` is the form that
    later became usual: training doubles the kept units, and test time changes nothing.
    """

    def __init__(self, layer: int, *, first: int = 0, inverted: bool = False) -> None:
        """Take a layer number, which makes the masks of layers differ.

        `first` is the index, in the whole layer, of the first unit that this rank has.
        """
        super().__init__()
        self.layer, self.first, self.inverted = layer, first, inverted

    def forward(self, x: Float[Tensor, "b n"], keys: Int64[Tensor, "b"] | None) -> Float[Tensor, "b n"]:
        """Return x with units dropped in training, or scaled at test time.

        Raise ValueError in training without keys, one per image (see `dropout_keys`).
        """
        if not self.training:
            return x if self.inverted else x * 0.5
        if keys is None:
            raise ValueError("in training mode the network needs a dropout key for each image: model(images, keys)")
        kept = x * mask(keys, self.layer, x.shape[1], self.first)
        return kept * 2 if self.inverted else kept


class NoDropout(nn.Module):
    """Placeholder for `Dropout` in a network without dropout."""

    def forward(self, x: Float[Tensor, "b n"], keys: Int64[Tensor, "b"] | None) -> Float[Tensor, "b n"]:  # noqa: ARG002
        """Return x."""
        return x


class GroupedLinear(nn.Module):
    """A fully connected layer in `groups` equal parts, each with its own part of the inputs.

    If the inputs are flattened maps, a group's part is its tower's maps.
    """

    def __init__(self, inputs: int, units: int, groups: int) -> None:
        """Take the number of inputs and of units, each of all groups together."""
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(units, inputs // groups))
        self.bias = nn.Parameter(torch.empty(units))

    def forward(self, x: Float[Tensor, "b n"]) -> Float[Tensor, "b units"]:
        """Return each unit's weighted sum plus bias."""
        rows = x.reshape(x.shape[0], self.groups, -1).movedim(1, 0)
        weight, bias = self.weight.reshape(self.groups, -1, rows.shape[-1]), self.bias.reshape(self.groups, 1, -1)
        return torch.baddbmm(bias, rows, weight.mT).movedim(0, 1).flatten(1)


def dropout_keys(seed: int, step: int, records: Int64[Tensor, "b"]) -> Int64[Tensor, "b"]:
    """Return one dropout key per image: a hash of (seed, step, record)."""
    start = _mix(torch.tensor([seed & _LOW_63], device=records.device)) + step
    return _mix(_mix(start) ^ (records * _ODD))


def mask(keys: Int64[Tensor, "b"], layer: int, units: int, first: int = 0) -> Bool[Tensor, "b {units}"]:
    """Return which units are kept, of the `units` units from index `first` on.

    Each is kept with probability one half; the result is the same on every device.
    """
    # ^ and not +: torch's compiler folds a sum into the index, in 32 bits, and Triton refuses a
    # constant that does not fit there
    unit = _mix(torch.arange(first, first + units, device=keys.device) ^ (layer << 32))
    return _mix(keys[:, None] ^ unit[None]) < 0


_LOW_63 = (1 << 63) - 1
# Odd multipliers; products wrap at 64 bits
_ODD, _MUL_1, _MUL_2 = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9, 0x14D049BB133111EB


def _mix(x: Int64[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """Return a bijective scramble of 64-bit integers (xor-shifts and odd multipliers)."""
    x = (x ^ _shift(x, 30)) * _MUL_1
    x = (x ^ _shift(x, 27)) * _MUL_2
    return x ^ _shift(x, 31)


def _shift(x: Int64[Tensor, "*n"], places: int) -> Int64[Tensor, "*n"]:
    """Return x shifted right, filled with zeros; torch's own shift fills with the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)
