"""Record batches in memory: rows of a mapped file, without a copy."""

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64, UInt8

from ..arrow import byte_strings
from ..imaging.kernels import stored_strings

MADVISE = ctypes.CDLL(None, use_errno=True).madvise


class Block(NamedTuple):
    """One record batch: views into the mapped file. `offsets` is None for raw records."""

    data: UInt8[np.ndarray, "..."]
    offsets: Int32[np.ndarray, "n1"] | None
    labels: Int64[np.ndarray, "n"]

    def image(self, row: int) -> UInt8[np.ndarray, "..."]:
        """Return the stored image of a row: JPEG bytes, or pixels."""
        return self.data[row] if self.offsets is None else self.data[self.offsets[row] : self.offsets[row + 1]]


class Located(NamedTuple):
    """The places of some records: the block of each record, and its row in the block."""

    blocks: list[Block]
    rows: Int64[np.ndarray, "b"]

    def images(self) -> list[UInt8[np.ndarray, "..."]]:
        """Return the image of each record, a view into its shard."""
        return [block.image(row) for block, row in zip(self.blocks, self.rows.tolist(), strict=True)]

    def labels(self) -> Int64[np.ndarray, "b"]:
        """Return the label of each record."""
        return np.array([block.labels[row] for block, row in zip(self.blocks, self.rows.tolist(), strict=True)], np.int64)

    def strings(self) -> pa.Array:
        """Return the bytes of each record as a binary_view array, without a copy. The array keeps the memory maps of the shards open."""
        capsules = stored_strings(self.blocks, self.rows)
        return byte_strings(self.images()) if capsules is None else pa.array(Strings(capsules))


class Strings(NamedTuple):
    """The capsules of an array's schema and data, in Arrow's PyCapsule interface."""

    capsules: tuple[Any, Any]

    def __arrow_c_array__(self, _requested: Any = None) -> tuple[Any, Any]:  # noqa: ANN401
        return self.capsules


def mapped(path: Path) -> pa.Buffer:
    """Return a file as a memory map, without a copy. The file is closed: there may be more shards than a process may have open files."""
    with pa.memory_map(str(path)) as file:
        return file.read_buffer(file.size())
