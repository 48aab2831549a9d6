"""Write shards row by row: Arrow IPC files of records.

FORMAT.md specifies the layout; change both together, and raise FORMAT_VERSION.
"""

import json
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from ..arrow import numbers, strings
from ..config import ShardConfig
from .sidecar import FORMAT_VERSION

ROWS_A_BATCH = {"jpeg": 256, "raw": 64}  # rows per record batch, about 10 MB


class RecordRow(NamedTuple):
    """One record to be written to a shard."""

    image: bytes | UInt8[np.ndarray, "s s 3"]  # JPEG bytes or pixels, depending on the encoding
    label: int
    key: str
    width: int  # pixels of the source image
    height: int


def schema(config: ShardConfig, classes: list[str], facts: dict[str, Any]) -> pa.Schema:
    """Return the columns of a shard, with `facts` and the class list in the metadata.

    For JPEG records, the metadata also have Hugging Face's description of the columns, so that
    `datasets.load_dataset("arrow")` decodes the images and knows the class names.
    """
    shape = [config.size, config.size, 3]
    image = (
        pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
        if config.encoding == "jpeg"
        else pa.fixed_shape_tensor(pa.uint8(), shape, dim_names=["H", "W", "C"])
    )
    metadata = {
        "alexprep": json.dumps({"format_version": FORMAT_VERSION, **facts}, sort_keys=True),
        "alexprep.classes": json.dumps([[name, name] for name in classes]),
    }
    if config.encoding == "jpeg":
        features = {
            "image": {"_type": "Image"},
            "label": {"names": classes, "_type": "ClassLabel"},
            "key": {"dtype": "string", "_type": "Value"},
            "width": {"dtype": "int32", "_type": "Value"},
            "height": {"dtype": "int32", "_type": "Value"},
        }
        metadata["huggingface"] = json.dumps({"info": {"features": features}})
    columns = {"image": image, "label": pa.int64(), "key": pa.string(), "width": pa.int32(), "height": pa.int32()}
    return pa.schema(list(columns.items()), metadata=metadata)


class ShardWriter:
    """Writes rows to an open file as an Arrow IPC file; holds one record batch in memory."""

    def __init__(self, file: Any, schema: pa.Schema, encoding: str) -> None:  # noqa: ANN401
        """Start a shard in `file`, which is anything that pyarrow accepts as a file."""
        self._schema, self._rows_a_batch = schema, ROWS_A_BATCH[encoding]
        self._writer = pa.ipc.new_file(file, schema)
        self._pending: list[RecordRow] = []

    def append(self, row: RecordRow) -> None:
        """Add one record."""
        self._pending.append(row)
        if len(self._pending) == self._rows_a_batch:
            self._flush()

    def close(self) -> None:
        """Write the pending rows and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        images, labels, keys, widths, heights = zip(*self._pending, strict=True)
        kind, names = self._schema.field("image").type, strings([key.encode() for key in keys], pa.string())
        if isinstance(kind, pa.FixedShapeTensorType):
            column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(images), dim_names=kind.dim_names)
        else:
            column = pa.StructArray.from_arrays([strings(images, pa.binary()), names], fields=list(kind))
        columns = [column, numbers(np.array(labels, np.int64)), names, numbers(np.array(widths, np.int32)), numbers(np.array(heights, np.int32))]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._pending.clear()
