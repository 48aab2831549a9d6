"""List and read TFRecord files without TensorFlow: TFDS's imagenet2012 and slim's.

The features of TFDS are image, label and file_name; those of slim are image/encoded and
image/class/...

A file is a sequence of [length u64, masked CRC-32C of it, data, masked CRC-32C of the data]. The
data is a protocol buffer `Example`:

    features { feature { key, value { bytes_list | float_list | int64_list } } }

Only the needed parts are parsed. Every length is checked against what surrounds it, and only the
requested bytes are copied.
"""

import os
import struct
from collections.abc import Iterator
from typing import Any

from ...errors import DataError, UndecodableImage
from ...storage.uri import Location
from ..classes import UNLABELLED, Unlabelled, from_zero, label_of
from ..heads import TFRECORD_HEADER as HEADER
from ..heads import is_tfrecord, masked_crc
from ..listing import WNID, Place, RawListing, shown, unread
from ..reading import read_range, refuse_large
from ..splits import is_junk, settled

FOOTER = 4  # bytes after the data: its checksum
MAX_LABEL = 1 << 10  # longest label, in bytes
IMAGES = ("image", "image/encoded")
NAMES = ("file_name", "image/filename")
CLASSES = ("image/class/synset",)
LABELS = ("label", "image/class/label")


class Stretch:
    """Part of a file that can be sliced like bytes.

    Only the blocks that are accessed are read, so images are skipped. (A memory map would do the
    same, but kill the process when somebody truncates the file.)
    """

    BLOCK = 1 << 12

    def __init__(self, path: Location, offset: int, size: int, block: "list[tuple[int, bytes]] | None" = None) -> None:
        """Begin at `offset` of `path`; `block` is the last one read, shared with all slices."""
        self._path, self._offset, self._size = path, offset, size
        self._block = [(0, b"")] if block is None else block

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self._size

    def __getitem__(self, place: Any) -> Any:  # noqa: ANN401  (int -> int, slice -> Stretch)
        """Return one byte as a number, or a slice as a Stretch."""
        if isinstance(place, slice):
            start, stop, _ = place.indices(self._size)
            return Stretch(self._path, self._offset + start, max(0, stop - start), self._block)
        at = self._offset + place
        first, data = self._block[0]
        if not first <= at < first + len(data):
            first, data = at, self._read(at, min(self.BLOCK, self._offset + self._size - at))
            self._block[0] = first, data
        return data[at - first]

    def __bytes__(self) -> bytes:
        """Return all bytes."""
        return self._read(self._offset, self._size)

    def _read(self, offset: int, size: int) -> bytes:
        first, data = self._block[0]
        if first <= offset and offset + size <= first + len(data):
            return data[offset - first : offset - first + size]
        return read_range(self._path, offset, size)


Bytes = memoryview | Stretch
BYTES = (memoryview, Stretch)


def list_tfrecords(files: list[tuple[Location, str | None]], default: str, first_label: int | None, notes: list[str]) -> tuple[str, list[RawListing]]:
    """Return (shape, splits) of TFRecord files; `files` are (path, split that its path names).

    Slim's labels count from 1, since 0 is its background class; all others count from 0. `first_label` overrides that.
    """
    found: dict[str, RawListing] = {}
    reader = TFRecordReader([path for path, _ in files])
    flavours: dict[str, None] = {}
    for number, (path, split) in enumerate(zip(reader.paths, settled(files, default), strict=True)):
        part = found.setdefault(split, RawListing(split, reader, of_rows=True, may_repeat=True))
        unlabelled = junk = 0
        for offset, data in records(path):
            features = _features(path, offset, data)
            slim = "image/encoded" in features
            flavours["TFRecord of slim's" if slim else "TFRecord of TFDS's"] = None
            name, synset = _text(features, NAMES), _text(features, CLASSES)
            if name and is_junk(name.rpartition("/")[2]):
                junk += 1
                continue
            label = _label(features, f"{path}: the record at byte {offset}")
            if isinstance(label, Unlabelled) and synset is None:
                unlabelled += 1
                continue
            wnid = synset if synset and (WNID.fullmatch(synset) or not isinstance(label, int)) else label if isinstance(label, str) else None
            where = f"{path}: the image {shown(name or '')} at byte {offset}"
            count_from = (1 if slim else 0) if first_label is None else first_label
            part.classes.append(wnid)
            part.labels.append(from_zero(label, count_from, where, strict=wnid is None) if isinstance(label, int) else -1)
            part.names.append(os.fsencode(name or f"{path.name}-{offset}"))
            part.places.append(Place(part.names[-1], number, offset, len(data)))
        if path.stat().st_size == 0:
            notes.append(f"{path}: no record: the file is empty")
        notes += unread(path, unlabelled, junk)
    return " and ".join(flavours) or "TFRecord", [part for part in found.values() if part.places]


def records(path: Location) -> Iterator[tuple[int, Stretch]]:
    """Yield (offset of the data, data) of each record; DataError where the file is damaged. The data's own CRC is checked when the image is read."""
    size = path.stat().st_size
    view, at = Stretch(path, 0, size), 0
    while at < size:
        head = bytes(view[at : at + HEADER])
        if not is_tfrecord(head):
            raise DataError(f"{path} is damaged at byte {at}: the checksum of a record's length is wrong, or the file is cut off; fetch it again")
        (length,) = struct.unpack_from("<Q", head)
        if length > size - at - HEADER - FOOTER:
            raise DataError(f"{path} is cut off: the record at byte {at} has {length} bytes; fetch it again")
        yield at + HEADER, view[at + HEADER : at + HEADER + length]
        at += HEADER + length + FOOTER


def fields(data: Bytes) -> Iterator[tuple[int, int | Bytes]]:
    """Yield (number, value) of each field of a protocol buffer message.

    Values are integers or byte ranges. Raise ValueError if `data` is not such a message.
    """
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = varint(data, at)
            yield number, value
            continue
        size, at = varint(data, at) if kind == 2 else ({1: 8, 5: 4}.get(kind, -1), at)
        if size < 0 or size > len(data) - at:
            raise ValueError(f"a field of kind {kind} and {size} bytes at byte {at} of {len(data)}")
        yield number, data[at : at + size]
        at += size


def varint(data: Bytes, at: int) -> tuple[int, int]:
    """Return (value, offset after it) of a base-128 varint of at most 64 bits. Raise ValueError if it does not end."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise ValueError("a number that does not end")


def parse_example(data: Bytes) -> dict[str, Bytes]:
    """Return {feature name: message of its value} of an Example; ValueError if it is not one."""
    found: dict[str, Bytes] = {}
    for number, features in fields(data):
        if number != 1 or not isinstance(features, BYTES):
            continue
        for kind, entry in fields(features):
            if kind != 1 or not isinstance(entry, BYTES):
                continue
            parts = dict(fields(entry))
            key, value = parts.get(1), parts.get(2)
            if isinstance(key, BYTES) and isinstance(value, BYTES):
                found[bytes(key).decode("utf-8", "replace")] = value
    return found


def _features(path: Location, offset: int, data: Bytes) -> dict[str, Bytes]:
    try:
        features = parse_example(data)
    except ValueError as error:
        raise DataError(f"{path}: the record at byte {offset} is no tf.train.Example: {error}; fetch the file again") from error
    if not features.keys() & set(IMAGES):
        raise DataError(f"{path}: the record at byte {offset} has the features {sorted(features)[:8]}; expected one of {', '.join(IMAGES)}")
    return features


def _bytes(features: dict[str, Bytes], names: tuple[str, ...]) -> Bytes | None:
    """Return the first value of a bytes_list among the features `names`, None if there is none."""
    for name in names:
        for number, values in fields(features.get(name, memoryview(b""))):
            if number == 1 and isinstance(values, BYTES):
                for kind, value in fields(values):
                    if kind == 1 and isinstance(value, BYTES):
                        return value
    return None


def _text(features: dict[str, Bytes], names: tuple[str, ...]) -> str | None:
    try:
        value = _bytes(features, names)
    except ValueError:
        return None
    return None if value is None or len(value) > 4096 else os.fsdecode(bytes(value)) or None


def _label(features: dict[str, Bytes], where: str) -> int | str | Unlabelled:
    """Return the label of a record: an integer, a float or a text; UNLABELLED if there is none.

    Raise DataError for a value that is not a label, or for several labels.
    """
    try:
        for name in LABELS:
            for kind, values in fields(features.get(name, memoryview(b""))):
                found = [value for number, value in fields(values) if number == 1] if isinstance(values, BYTES) else []
                if len(found) > 1 or (found and kind in (2, 3) and _is_longer(kind, found[0])):
                    raise ValueError("an image has one label, but this one has several")
                if found:
                    return label_of(_number(kind, found[0]))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return UNLABELLED


def _is_longer(kind: int, value: int | Bytes) -> bool:
    """Return whether `value` holds more than one packed number."""
    if isinstance(value, int):
        return False
    return len(value) > 4 if kind == 2 else varint(value, 0)[1] < len(value)


def _number(kind: int, value: int | Bytes) -> int | float | str | None:
    """Return the first value of a list: bytes (kind 1), floats (2) or int64 (3), packed or not."""
    if kind == 3:
        unsigned = value if isinstance(value, int) else varint(value, 0)[0]
        return unsigned - (1 << 64) if unsigned >> 63 else unsigned
    if isinstance(value, int) or len(value) > MAX_LABEL:
        raise ValueError("no label: expected an integer, a float or a text")
    if kind == 1:
        return bytes(value).decode()
    return float(struct.unpack_from("<f", bytes(value))[0]) if len(value) >= 4 else None


class TFRecordReader:
    """Reads images from records; `place.offset` and `place.size` are those of the record's data."""

    def __init__(self, paths: list[Location]) -> None:
        """Read from `paths`."""
        self.paths = paths

    def read(self, place: Place) -> bytes:
        """Return one image's bytes; UndecodableImage if the record's checksum is wrong."""
        refuse_large(place.size)
        data = memoryview(read_range(self.paths[place.file], place.offset, place.size + FOOTER))
        record = data[: place.size]
        if struct.unpack_from("<I", data, place.size)[0] != masked_crc(record):
            raise UndecodableImage("the TFRecord's checksum is wrong: the file is damaged here")
        try:
            image = _bytes(parse_example(record), IMAGES)
        except ValueError as error:
            raise UndecodableImage(f"no tf.train.Example: {error}") from error
        if image is None:
            raise UndecodableImage("the record has no image")
        return bytes(image)

    def where(self, place: Place) -> str:
        """Return file and byte."""
        return f"{self.paths[place.file]}, record at byte {place.offset - HEADER}"
