"""Arrow arrays from numbers and byte strings, and numbers back.

`pa.array` and `to_numpy` would do, but look whether something of pandas is meant, and so import pandas wherever that is
installed: 0.1 s in every process, before its first shard.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped, UInt8

_LARGEST = (1 << 31) - 1  # offset in an array whose offsets have 32 bits


def numbers(values: Shaped[np.ndarray, "n"]) -> pa.Array:
    """Return an array of the same numbers and type, in the same memory."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def strings(values: Sequence[bytes] | Sequence[UInt8[np.ndarray, "_"]], kind: pa.DataType) -> pa.Array:
    """Return an array of `kind` (binary, string, large_binary); of strings, the bytes are UTF-8. OverflowError beyond 2 GiB in all."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int64)
    if kind != pa.large_binary():
        if ends[-1] > _LARGEST:
            raise OverflowError(f"{ends[-1]} bytes do not fit into one array of {kind}")
        ends = ends.astype(np.int32)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))])  # type: ignore[arg-type]  # arrays are buffers


def plain(array: pa.Array) -> Shaped[np.ndarray, "n"]:
    """Return the numbers of an array, in the same memory; ValueError if it has nulls."""
    if array.null_count:
        raise ValueError(f"{array.null_count} values are missing")
    values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]
