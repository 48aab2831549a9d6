"""The one source of randomness: a counter-based hash. Equal counters give equal bits on every machine.

splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) is a bijection of 64-bit integers; chained over the counters it
is a stateless generator, vectorised in numpy with integer arithmetic alone.
"""

import numpy as np
from jaxtyping import UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1, _MUL_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(value: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """Return a bijective scramble of each 64-bit integer."""
    value = (value ^ (value >> np.uint64(30))) * _MUL_1
    value = (value ^ (value >> np.uint64(27))) * _MUL_2
    return value ^ (value >> np.uint64(31))


def step(state: UInt64[np.ndarray, "*n"], counter: UInt64[np.ndarray, "*m"]) -> UInt64[np.ndarray, "*k"]:
    """Return the state after taking in `counter` (broadcast). For one state it is a bijection of the counter."""
    return mix(state ^ mix(counter * _GOLDEN + _GOLDEN))


def key(purpose: int, seed: int, epoch: int) -> UInt64[np.ndarray, "1"]:
    """Return the state for one purpose (so that order and crops share no bits), seed and epoch."""
    state = np.zeros(1, np.uint64)
    for counter in (purpose, seed, epoch):
        state = step(state, np.array([counter], np.uint64))
    return state
