"""Parquet files as Hugging Face writes them: a column of images (struct<bytes, path>, or plain bytes) and an integer label.

A row group is decoded to reach an image in it, and the last one is kept: images that the shuffle has spread over many groups cost
more to read than from the other shapes (docs/performance.md has the figures).
"""

import json
import os
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, UndecodableImage
from ..remote import Location, RemotePath
from .listing import Found, Place, some, split_of
from .reading import refuse_large

IMAGE_COLUMNS = ("image", "img", "jpg", "bytes", "image_bytes")
LABEL_COLUMNS = ("label", "cls", "target", "fine_label")
NAME_COLUMNS = ("path", "filename", "file_name", "key", "__key__")
MAX_GROUP = 1 << 31  # bytes of a row group's images in memory; Hugging Face's have about ten megabytes


def list_parquet(paths: list[Location], notes: list[str]) -> tuple[str, list[Found], list[str]]:
    """Return (shape, splits, names of the classes if the files give them) of the files in `paths`."""
    found: dict[str, Found] = {}
    names: list[str] = []
    reader = ParquetReader(paths)
    for number, path in enumerate(paths):
        split = split_of(path.name, path.parent.name)  # data/train/0000.parquet
        part = found.setdefault(split, Found(split, reader))
        try:
            unlabelled = _list_file(path, number, part)
            names = names or _class_names(_opened(path).schema_arrow)
        except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
            raise DataError(f"{path} cannot be read as parquet: {error}; fetch it again") from error
        if unlabelled:
            notes.append(f"{path}: {unlabelled} images without a label (as in a test set) are not read")
    return "parquet", [part for part in found.values() if part.places], names


def _list_file(path: Location, number: int, part: Found) -> int:
    """Add the rows of one file; return how many have no label."""
    file = _opened(path)
    columns = _Columns.of(path, file.schema_arrow)
    wanted = [columns.label, *([columns.name] if columns.name else [])]
    unlabelled = 0
    for group in range(file.num_row_groups):
        if _image_bytes(file.metadata.row_group(group), columns.image) > MAX_GROUP:
            raise DataError(f"{path}: row group {group} holds more than {MAX_GROUP} bytes of images; write it with smaller row groups")
        table = file.read_row_group(group, columns=wanted)
        labels = table[columns.label].cast(pa.int64()).to_pylist()
        names = _names(table, columns) or [f"{path.name.removesuffix('.parquet')}-{group:05}-{row:05}" for row in range(len(table))]
        for row, (label, name) in enumerate(zip(labels, names, strict=True)):
            if label is None or label < 0:
                unlabelled += 1
                continue
            part.classes.append(None)
            part.labels.append(label)
            part.names.append(os.fsencode(name or f"{path.name}-{group}-{row}"))
            part.places.append(Place(part.names[-1], number, group, row))
    return unlabelled


class _Columns:
    """Which columns hold what."""

    def __init__(self, image: str, label: str, name: str | None) -> None:
        self.image, self.label, self.name = image, label, name

    @classmethod
    def of(cls, path: Location, schema: pa.Schema) -> "_Columns":
        by_name = {field.name: field.type for field in schema}
        label = next((name for name in LABEL_COLUMNS if name in by_name and pa.types.is_integer(by_name[name])), None)
        for name in IMAGE_COLUMNS:
            kind = by_name.get(name)
            if kind is None or label is None:
                continue
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                has_path = kind.get_field_index("path") >= 0
                return cls(f"{name}.bytes", label, f"{name}.path" if has_path else _name_column(by_name))
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return cls(name, label, _name_column(by_name))
        raise DataError(
            f"{path} has the columns {some(sorted(by_name), 8)}: expected an image column ({', '.join(IMAGE_COLUMNS)}; struct<bytes, path> "
            f"or binary) and an integer label ({', '.join(LABEL_COLUMNS)})"
        )


def _name_column(by_name: dict[str, Any]) -> str | None:
    return next((name for name in NAME_COLUMNS if name in by_name and pa.types.is_string(by_name[name])), None)


def _names(table: pa.Table, columns: _Columns) -> list[str | None] | None:
    if columns.name is None:
        return None
    top, _, below = columns.name.partition(".")
    column = table[top].combine_chunks()
    return list((column.field(below) if below else column).to_pylist())


def _image_bytes(group: Any, image: str) -> int:  # noqa: ANN401  (pyarrow's metadata)
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == image)


def _class_names(schema: pa.Schema) -> list[str]:
    """Return the names in Hugging Face's schema metadata, if they are there."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = next(feature["names"] for feature in features.values() if feature.get("_type") == "ClassLabel")
        return [str(name) for name in names]
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError, RecursionError):
        return []


class ParquetReader:
    """Images in row groups: `place.offset` is the group, `place.size` the row in it."""

    def __init__(self, paths: list[Location]) -> None:
        """Read from `paths`."""
        self.paths = paths

    def read(self, place: Place) -> bytes:
        """Return the bytes of one row's image."""
        path = self.paths[place.file]
        try:
            value = _group(path, place.offset)[place.size]
        except (pa.ArrowException, IndexError, ValueError) as error:
            raise OSError(5, f"row group {place.offset} cannot be read: {error}", str(path)) from error
        if not value.is_valid:
            raise UndecodableImage("no bytes in this row (only a path?)")
        buffer = value.as_buffer()
        refuse_large(buffer.size)
        return bytes(buffer)

    def where(self, place: Place) -> str:
        """Return file, row group and row."""
        return f"{self.paths[place.file]}, row group {place.offset}, row {place.size}"


@lru_cache(maxsize=8)
def _opened(path: Location) -> pq.ParquetFile:
    # Not mapped: a file that somebody truncates would kill the process instead of failing to be read.
    return pq.ParquetFile(path.open_random() if isinstance(path, RemotePath) else path, memory_map=False)


@lru_cache(maxsize=1)
def _group(path: Location, group: int) -> pa.Array:
    """Return the image column of a row group."""
    file = _opened(path)
    columns = _Columns.of(path, file.schema_arrow)
    column = file.read_row_group(group, columns=[columns.image])[columns.image.partition(".")[0]].combine_chunks()
    return column.field("bytes") if pa.types.is_struct(column.type) else column
