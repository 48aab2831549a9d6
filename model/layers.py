"""The three layers of 2012 that torch has not, or not in this form: two response normalisations and the dropout."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


class ResponseNorm(nn.Module):
    """Local response normalisation across maps (paper, section 3.3): x / (k + alpha * sum of x**2 over `size` maps) ** 0.75.

    `alpha` multiplies the sum itself, as in the paper's formula; torch's LocalResponseNorm divides it by `size` first.
    With `towers` > 1 the sum stays within each of that many equal groups of maps.
    """

    def __init__(self, maps: int, *, alpha: float, k: float = 2.0, size: int = 5, towers: int = 1) -> None:
        """Take the number of maps; the exponent is 0.75."""
        super().__init__()
        self.alpha, self.k, self.towers = alpha, k, towers
        place = torch.arange(maps // towers)
        near = (place[:, None] - place[None]).abs() <= size // 2
        band = near.float().repeat(towers, 1)[:, :, None, None]
        self.register_buffer("band", band, persistent=False)
        self.band: Tensor

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x, normalised."""
        return _ResponseNorm.apply(x, self.band, self.towers, self.alpha, self.k)  # type: ignore[no-untyped-call]


class _ResponseNorm(torch.autograd.Function):
    """The sum over neighbouring maps as a banded 1x1 convolution, and the gradient by formula.

    torch's own layer pads, pools in three dimensions and takes a power: 2.5 to 3 times slower here on a CPU, where it takes
    most of AlexNet's time (benchmarks/response_norm.py). A test holds the two together.
    """

    @staticmethod
    def forward(ctx, x: Tensor, band: Tensor, towers: int, alpha: float, k: float) -> Tensor:  # type: ignore[no-untyped-def]  # noqa: ANN001
        base = F.conv2d(x * x, band, groups=towers).mul_(alpha).add_(k)
        root = torch.rsqrt(base)
        power = root.mul(root.sqrt())  # base ** -0.75
        ctx.save_for_backward(x, base, power, band)
        ctx.towers, ctx.alpha = towers, alpha
        return x * power

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:  # type: ignore[no-untyped-def]  # noqa: ANN001
        x, base, power, band = ctx.saved_tensors
        direct = grad * power
        spread = F.conv2d((direct * x).div_(base), band, groups=ctx.towers)  # the band is symmetric
        return direct.sub_(spread.mul_(x), alpha=1.5 * ctx.alpha), None, None, None, None  # 1.5 = 2 * 0.75


class WithinMapNorm(nn.Module):
    """Response normalisation within each map, over a 5x5 window: x / (1 + 1e-3/25 * sum of x**2) ** 0.75 (2012 code, layer 2)."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x, normalised."""
        root = torch.rsqrt(1 + 1e-3 * F.avg_pool2d(x * x, 5, stride=1, padding=2))
        return x * root * root.sqrt()


class Dropout(nn.Module):
    """Dropout as of 2012 (paper, section 4.2): half the units are set to 0 in training; at test time all are halved.

    The mask is a pure function of (key of the image, layer, unit), so it does not depend on how a batch is split over
    devices, and a resumed run drops the same units.
    """

    def __init__(self, layer: int) -> None:
        """Take a number that tells this layer's masks from those of the others."""
        super().__init__()
        self.layer = layer

    def forward(self, x: Float[Tensor, "b n"], keys: Int64[Tensor, "b"] | None) -> Float[Tensor, "b n"]:
        """Return x with units dropped, or halved; in training each image needs a key (see `dropout_keys`)."""
        if not self.training:
            return x * 0.5
        if keys is None:
            raise ValueError("in training mode the network needs a dropout key for each image: model(images, keys)")
        return x * mask(keys, self.layer, x.shape[1])


def dropout_keys(seed: int, step: int, records: Int64[Tensor, "b"]) -> Int64[Tensor, "b"]:
    """Return one key an image for this use of it: a hash of (seed, step, record)."""
    start = _mix(torch.tensor([seed & _LOW_63], device=records.device)) + step
    return _mix(_mix(start) ^ (records * _ODD))


def mask(keys: Int64[Tensor, "b"], layer: int, units: int) -> Bool[Tensor, "b {units}"]:
    """Return which units stay: each with probability one half, the same on every device."""
    unit = _mix(torch.arange(units, device=keys.device) + (layer << 32))
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
