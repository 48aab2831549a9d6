"""Draw crop, flip and colour shift of each record: (seed, epoch, record) -> draws.

The bits are the same on every machine. Whole numbers come from integer arithmetic; normal deviates
use +, -, *, / and sqrt alone, which IEEE 754 rounds in one way everywhere (numpy's log, sin and cos
differ in the last bit from one instruction set to another).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt64

from ..counter_rng import key, step

_PURPOSE = 2
_TOP, _LEFT, _FLIP, _ALPHA = 0, 1, 2, slice(3, 6)
_LANES = 6


class Draws(NamedTuple):
    """The random draws for b images in one epoch."""

    top: Int64[np.ndarray, "b"]  # crop offset, pixels
    left: Int64[np.ndarray, "b"]
    flip: Bool[np.ndarray, "b"]
    alpha: Float64[np.ndarray, "b 3"]  # standard normal, one per principal colour


def draws(seed: int, epoch: int, records: Int64[np.ndarray, "b"], room: int, *, mirror: bool = True) -> Draws:
    """Return the draws of each record in `epoch`.

    Crop offsets are uniform on 0..room (paper, section 4.1: 0..32). Half of the images are flipped
    if `mirror`, else none.
    """
    state = step(key(_PURPOSE, seed, epoch), records.astype(np.uint64))
    bits = step(state[:, None], np.arange(_LANES, dtype=np.uint64)[None])
    # high * (room + 1) >> 32 is uniform to one part in 2**32 / (room + 1)
    high = bits >> np.uint64(32)
    offsets = (high[:, [_TOP, _LEFT]] * np.uint64(room + 1) >> np.uint64(32)).astype(np.int64)
    return Draws(offsets[:, 0], offsets[:, 1], (bits[:, _FLIP] >> np.uint64(63) == 1) & mirror, normal(bits[:, _ALPHA]))


def colour_shift(
    alpha: Float64[np.ndarray, "b 3"],
    std: float,
    eigenvalues: Float64[np.ndarray, "3"],
    eigenvectors: Float64[np.ndarray, "3 3"],
) -> Float32[np.ndarray, "b 3"]:
    """Return the RGB shift of each image, in grey levels.

    shift = sum_i std * alpha_i * sqrt(eigenvalue_i) * eigenvector_i

    The 2012 code multiplied by the square root, which is a standard deviation in grey levels. The paper's text (section
    4.1) says the eigenvalue itself, which on 0..255 pixels would shift images by more than a thousand levels.
    """
    weight = alpha * (std * np.sqrt(np.maximum(eigenvalues, 0)))
    # Term by term: a matrix product may round differently on another machine.
    shift = weight[:, 0:1] * eigenvectors[0]
    shift = shift + weight[:, 1:2] * eigenvectors[1]
    shift = shift + weight[:, 2:3] * eigenvectors[2]
    return shift.astype(np.float32)


def normal(bits: UInt64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Return a standard normal deviate for each 64 random bits.

    It is the normal quantile function of a 52-bit uniform number, by Wichura, Algorithm AS 241
    (PPND16), Applied Statistics 37 (1988): relative error about 1e-16.
    """
    # Uniform in (0, 1), both ends excluded.
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    centred = uniform - 0.5
    central = np.abs(centred) <= 0.425
    result = np.empty_like(uniform)
    q = centred[central]
    result[central] = q * _ratio(_CENTRE, 0.180625 - q * q)
    tail = np.minimum(uniform[~central], 1 - uniform[~central])
    r = np.sqrt(-_log(tail))
    size = np.where(r <= 5, _ratio(_TAIL, r - 1.6), _ratio(_FAR_TAIL, r - 5))
    result[~central] = np.where(centred[~central] < 0, -size, size)
    return result


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    top, bottom = (np.full_like(x, c[0]) for c in coefficients)
    for a, b in zip(coefficients[0][1:], coefficients[1][1:], strict=True):
        top, bottom = top * x + a, bottom * x + b
    return top / bottom


def _log(x: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """Return the natural logarithm, with correctly rounded operations only.

    The logarithm of the mantissa m is 2 * artanh((m - 1) / (m + 1)), summed as a power series.
    """
    mantissa, exponent = np.frexp(x)  # mantissa in [0.5, 1)
    small = mantissa < 2**-0.5
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), np.where(small, exponent - 1, exponent)
    y = (mantissa - 1) / (mantissa + 1)  # |y| <= 0.172: y**23 / 23 is below 1e-18
    total = np.zeros_like(y)
    for odd in range(21, 0, -2):
        total = total * (y * y) + 1 / odd
    return 2 * y * total + exponent * 0.6931471805599453


# Coefficients of AS 241, highest power first: (numerator, denominator).
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
     1971.5909503065514427, 133.14166789178437745, 3.3871328727963666080),
    (5226.4952788528545610, 28729.085735721942674, 39307.895800092710610, 21213.794301586595867, 5394.1960214247511077,
     687.18700749205790830, 42.313330701600911252, 1.0),
)  # fmt: skip
_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258,
     3.64784832476320460504, 5.76949722146069140550, 4.63033784615654529590, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940, 2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580, 5.46378491116411436990, 6.65790464350110377720),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)  # fmt: skip
