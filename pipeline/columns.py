"""Arrow arrays from numbers and byte strings, and numbers back.

`pa.array` and `to_numpy` would do, but look whether something of pandas is meant, and so import pandas wherever that is
installed: 0.1 s in every process, before its first shard.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped, UInt8

_VIEW = np.dtype([("length", "<i4"), ("prefix", "<u4"), ("index", "<i4"), ("offset", "<i4")])  # of Arrow's binary_view
_INLINE = 12  # bytes of a value that stand in the view itself
_LARGEST = (1 << 31) - 1  # offset in an array whose offsets have 32 bits


def numbers(values: Shaped[np.ndarray, "n"]) -> pa.Array:
    """Return an array of the same numbers and type, in the same memory."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def strings(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    """Return an array of `kind` (binary, string, large_binary); of strings, the bytes are UTF-8. OverflowError beyond 2 GiB in all."""
    ends = np.cumsum([0, *map(len, values)], dtype=np.int64)
    if kind != pa.large_binary():
        if ends[-1] > _LARGEST:
            raise OverflowError(f"{ends[-1]} bytes do not fit into one array of {kind}")
        ends = ends.astype(np.int32)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))])


def byte_strings(values: Sequence[UInt8[np.ndarray, "..."]]) -> pa.Array:
    """Return a binary_view array of these bytes, a buffer each, where they are; ValueError for fewer than 13, which have another place."""
    views = np.empty(len(values), _VIEW)
    views["length"], views["index"], views["offset"] = [value.nbytes for value in values], np.arange(len(values)), 0
    if len(values) and views["length"].min() <= _INLINE:
        raise ValueError(f"a value of {views['length'].min()} bytes")
    views["prefix"] = [value.ravel()[:4].view(np.uint32)[0] for value in values]
    return pa.Array.from_buffers(pa.binary_view(), len(values), [None, pa.py_buffer(views), *map(pa.py_buffer, values)])


def byte_views(array: pa.Array) -> list[UInt8[np.ndarray, "_"]]:
    """Return the values of an array that `byte_strings` made, in the same memory; ValueError if they do not lie within it."""
    _, buffer, *parts = array.buffers()
    views = np.frombuffer(buffer, _VIEW)[array.offset : array.offset + len(array)]
    contents = [np.frombuffer(part, np.uint8) for part in parts]
    found = []
    for length, _, index, offset in views.tolist():
        if not (length > _INLINE and 0 <= index < len(contents) and 0 <= offset <= len(contents[index]) - length):
            raise ValueError("a value that is not within its buffer")
        found.append(contents[index][offset : offset + length])
    return found


def plain(array: pa.Array) -> Shaped[np.ndarray, "n"]:
    """Return the numbers of an array, in the same memory; ValueError if it has nulls."""
    if array.null_count:
        raise ValueError(f"{array.null_count} values are missing")
    values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]
