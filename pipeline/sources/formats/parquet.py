"""List and read parquet files as Hugging Face and others write them.

They have a column of images (struct<bytes, path>, or plain bytes) and one of labels. Bytes, text
and numbers are read in every encoding that Arrow has for them, so it does not matter who wrote the
file.

Reading an image decodes its whole row group, and the last group is cached. So images that the
shuffle has spread over many groups cost more to read than in the other shapes (docs/performance.md
has the figures).
"""

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...arrow import plain
from ...errors import DataError, UndecodableImage
from ...storage.uri import Location, RemotePath
from ..classes import Unlabelled, from_zero, label_of
from ..listing import Place, RawListing, shown, some, unread
from ..reading import refuse_large
from ..splits import apart, exact_split, is_junk, settled, split_in

IMAGE_COLUMNS = ("image", "img", "jpg", "bytes", "image_bytes")
LABEL_COLUMNS = ("label", "cls", "target", "fine_label")
SPLIT_COLUMNS = ("split", "subset", "partition")
NAME_COLUMNS = ("path", "filename", "file_name", "key", "__key__")
# Largest row group, in bytes of its images in memory; Hugging Face's have about ten megabytes.
MAX_GROUP = 1 << 31


def list_parquet(
    files: list[tuple[Location, str | None]], default: str, first_label: int | None, notes: list[str]
) -> tuple[str, list[RawListing], list[str]]:
    """Return (shape, splits, class names if the files give them) of parquet files. `files` are (path, split that its path names)."""
    found: dict[str, RawListing] = {}
    named: dict[tuple[str, ...], Location] = {}
    reader = ParquetReader([path for path, _ in files])
    for number, (path, split) in enumerate(zip(reader.paths, settled(files, default), strict=True)):
        part = found.setdefault(split, RawListing(split, reader, of_rows=True, may_repeat=True))
        try:
            notes += _list_file(path, number, part, first_label or 0)
            if names := _class_names(_opened(path).schema_arrow):
                named.setdefault(tuple(names), path)
        except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
            raise DataError(f"{path} cannot be read as parquet: {error}; fetch it again") from error
    if len(named) > 1:
        first, second, *_ = named.values()
        raise DataError(f"{first} and {second} name their classes differently, so that a label means two things: give --src one of them")
    return "parquet", [part for part in found.values() if part.places], list(next(iter(named), ()))


def _list_file(path: Location, number: int, part: RawListing, first_label: int) -> list[str]:
    """Add the rows of one file to `part`; return notes on the rows that were not added."""
    file = _opened(path)
    columns = _Columns.of(path, file.schema_arrow)
    unlabelled = junk = row = 0
    for group in range(file.num_row_groups):
        if _image_bytes(file.metadata.row_group(group), columns.image) > MAX_GROUP:
            raise DataError(f"{path}: row group {group} holds more than {MAX_GROUP} bytes of images; write it with smaller row groups")
        table = file.read_row_group(group, columns=columns.read)
        names = _names(table, columns)
        _check_splits(path, part.split, table, columns, names)
        for at, (value, own) in enumerate(zip(_texts(table, columns.label), names, strict=True)):
            name = own or f"{path.name.removesuffix('.parquet')}-{row:08}"
            row += 1
            try:
                label = label_of(value)
            except ValueError as error:
                raise DataError(f"{path}: {error} (row {row - 1}, column {columns.label})") from error
            if isinstance(label, Unlabelled):
                unlabelled += 1
                continue
            if is_junk(name.rpartition("/")[2]):
                junk += 1
                continue
            part.classes.append(label if isinstance(label, str) else None)
            part.labels.append(from_zero(label, first_label, f"{path}: row {row - 1}") if isinstance(label, int) else -1)
            part.names.append(os.fsencode(name))
            part.places.append(Place(part.names[-1], number, group, at))
    return unread(path, unlabelled, junk)


@dataclass(frozen=True)
class _Columns:
    """Names of the columns to read; a dot precedes the field of a struct."""

    image: str
    label: str
    names: tuple[str, ...]  # columns that may name the image; the first that does counts
    splits: tuple[str, ...]  # columns that may name its split

    @property
    def read(self) -> list[str]:
        """The columns that a listing reads."""
        return [self.label, *self.names, *self.splits]

    @classmethod
    def of(cls, path: Location, schema: pa.Schema) -> "_Columns":
        by_name = {field.name: _stored(field.type) for field in schema}
        label = _label_column(by_name)
        splits = tuple(name for name in SPLIT_COLUMNS if name in by_name and _is_text(by_name[name]))
        beside = tuple(name for name in NAME_COLUMNS if name in by_name and _is_text(by_name[name]))
        for name in IMAGE_COLUMNS:
            kind = by_name.get(name)
            if kind is None or label is None:
                continue
            if pa.types.is_struct(kind) and (inner := kind.get_field_index("bytes")) >= 0 and _is_bytes(_stored(kind.field(inner).type)):
                own = kind.get_field_index("path")
                return cls(
                    f"{name}.bytes", label, ((f"{name}.path",) if own >= 0 and _is_text(_stored(kind.field(own).type)) else ()) + beside, splits
                )
            if _is_bytes(kind):
                return cls(name, label, beside, splits)
        columns = some([f"{name}: {kind}" for name, kind in sorted(by_name.items())], 8)
        raise DataError(
            f"{path} has the columns {columns}: expected an image column ({', '.join(IMAGE_COLUMNS)}; struct<bytes, path> "
            f"or binary) and a label, number or text ({', '.join(LABEL_COLUMNS)})"
        )


def _stored(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, without dictionaries, runs and extension types."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def _label_column(by_name: dict[str, pa.DataType]) -> str | None:
    """Return the label column: of integers if there is one, else of other numbers, else of text.

    Text comes after numbers, since it may be a description.
    """
    others = (lambda kind: pa.types.is_floating(kind) or pa.types.is_decimal(kind), _is_text, pa.types.is_null)
    for fits in (pa.types.is_integer, *others):
        for name in LABEL_COLUMNS:
            if name in by_name and fits(by_name[name]):
                return name
    return None


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_list_view(kind):
        return pa.types.is_uint8(kind.value_type) or pa.types.is_int8(kind.value_type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    """Return whether a column may hold text, including text that is not marked as such."""
    return _is_binary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_splits(path: Location, split: str, table: pa.Table, columns: _Columns, names: list[str | None]) -> None:
    """Raise DataError if a split column, or a folder in a row's name, names another split."""
    for column in columns.splits:
        for value in set(_texts(table, column)) - {None}:
            text = os.fsdecode(value)
            if split_in(text, f"{path}, column {column}, {shown(text)!r}") not in (None, split):
                raise DataError(f"{path} is read as {split}, and its column {column} says {shown(text)!r}: write a file for each split")
    folders = {tuple(name.split("/")[:-1]) for name in names if name and "/" in name}
    for part in sorted({part for parts in apart(list(folders))[1] for part in parts}):
        if exact_split(part) not in (None, split):
            raise DataError(f"{path} is read as {split}, and has images in {shown(part)}/: write a file for each split, and name it so")


def _texts(table: pa.Table, column: str) -> list[Any]:
    """Return the values of a column (or, after a dot, of a struct's field) as Python objects."""
    top, _, below = column.partition(".")
    values = table[top].to_pylist()
    return [None if value is None else value[below] for value in values] if below else values


def _names(table: pa.Table, columns: _Columns) -> list[str | None]:
    """Return the images' names, None where a row has none."""
    found: list[str | None] = [None] * len(table)
    for column in columns.names:
        found = [old or (os.fsdecode(new) if new else None) for old, new in zip(found, _texts(table, column), strict=True)]
    return found


def _image_bytes(group: Any, image: str) -> int:  # noqa: ANN401  (pyarrow's metadata)
    columns = (group.column(i) for i in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if f"{column.path_in_schema}.".startswith(f"{image}."))


def _class_names(schema: pa.Schema) -> list[str]:
    """Return the class names in Hugging Face's schema metadata, for the label column only."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        label = _label_column({field.name: _stored(field.type) for field in schema})
        # Each name becomes one part of a key.
        return [str(name).replace("/", "_") for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return []


class ParquetReader:
    """Reads images from row groups; `place.offset` is the group, `place.size` the row in it."""

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
        while isinstance(value, pa.DictionaryScalar | pa.RunEndEncodedScalar | pa.ExtensionScalar) and value.is_valid:
            value = value.value
        if not value.is_valid:
            raise UndecodableImage("no bytes in this row (only a path?)")
        if isinstance(value, pa.ListScalar):
            refuse_large(len(value.values))
            if value.values.null_count:
                raise UndecodableImage("a list of bytes with a null in it")
            return plain(value.values.view(pa.uint8())).tobytes()
        buffer = value.as_buffer()
        refuse_large(buffer.size)
        return bytes(buffer)

    def where(self, place: Place) -> str:
        """Return file, row group and row."""
        return f"{self.paths[place.file]}, row group {place.offset}, row {place.size}"


@lru_cache(maxsize=8)
def _opened(path: Location) -> pq.ParquetFile:
    # No memory map: if somebody truncated the file, the process would be killed, not get an error.
    return pq.ParquetFile(path.open_random() if isinstance(path, RemotePath) else path, memory_map=False)


@lru_cache(maxsize=1)
def _group(path: Location, group: int) -> pa.ChunkedArray:
    """Return the image column of a row group."""
    file = _opened(path)
    columns = _Columns.of(path, file.schema_arrow)
    top, _, below = columns.image.partition(".")
    column = file.read_row_group(group, columns=[columns.image])[top]
    return pc.struct_field(column, below) if below else column
