"""Convert numbers and byte strings to Arrow arrays, and back.

`pa.array` and `to_numpy` would do the same, but they check for pandas objects and therefore import
pandas wherever it is installed: 0.1 s in every process, before its first shard.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped, UInt8

# A view, as Arrow's binary_view defines it.
_VIEW = np.dtype([("length", "<i4"), ("prefix", "<u4"), ("index", "<i4"), ("offset", "<i4")])
_INLINE = 12  # maximum bytes of a value that is stored in the view itself
_LARGEST = (1 << 31) - 1  # largest offset in an array with 32-bit offsets


def numbers(values: Shaped[np.ndarray, "n"]) -> pa.Array:
    """Return an Arrow array of the same numbers and type, without a copy."""
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def strings(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
    """Return an Arrow array of `kind` (binary, string, large_binary); for string, give UTF-8 bytes.

    Raise OverflowError for more than 2 GiB in all, except for large_binary.
    """
    ends = np.cumsum([0, *map(len, values)], dtype=np.int64)
    if kind != pa.large_binary():
        if ends[-1] > _LARGEST:
            raise OverflowError(f"{ends[-1]} bytes do not fit into one array of {kind}")
        ends = ends.astype(np.int32)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))])


def byte_strings(values: Sequence[UInt8[np.ndarray, "..."]]) -> pa.Array:
    """Return a binary_view array of these bytes, one buffer per value, without a copy."""
    views = np.zeros(len(values), _VIEW)
    views["length"] = [value.nbytes for value in values]
    inline = views.view(np.uint8).reshape(-1, _VIEW.itemsize)[:, 4:]
    for number, value in enumerate(values):
        if value.nbytes <= _INLINE:
            inline[number, : value.nbytes] = value.ravel()
        else:
            inline[number, :4], views["index"][number] = value.ravel()[:4], number
    return pa.Array.from_buffers(pa.binary_view(), len(values), [None, pa.py_buffer(views), *map(pa.py_buffer, values)])


def byte_views(array: pa.Array) -> list[UInt8[np.ndarray, "_"]]:
    """Return the values of an array that `byte_strings` made, without a copy. Raise ValueError if a value lies outside its buffer."""
    _, buffer, *parts = array.buffers()
    views = np.frombuffer(buffer, _VIEW)[array.offset : array.offset + len(array)]
    inline = views.view(np.uint8).reshape(-1, _VIEW.itemsize)[:, 4:]
    contents = [np.frombuffer(part, np.uint8) for part in parts]
    found = []
    for number, (length, _, index, offset) in enumerate(views.tolist()):
        if 0 <= length <= _INLINE:
            found.append(inline[number, :length])
        elif length > 0 and 0 <= index < len(contents) and 0 <= offset <= len(contents[index]) - length:
            found.append(contents[index][offset : offset + length])
        else:
            raise ValueError("a value lies outside its buffer")
    return found


def plain(array: pa.Array) -> Shaped[np.ndarray, "n"]:
    """Return the numbers of an Arrow array, without a copy; raise ValueError if it has nulls."""
    if array.null_count:
        raise ValueError(f"{array.null_count} values are missing")
    values = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return values[array.offset : array.offset + len(array)]
