"""TFRecord files without TensorFlow: TFDS's imagenet2012 (image, label, file_name) and slim's (image/encoded, image/class/...).

A file is a run of [length u64, masked CRC-32C of it, data, masked CRC-32C of the data]; the data is a protocol buffer
`Example`: features { feature { key, value { bytes_list | float_list | int64_list } } }. The few parts of that which are needed are
read here; every length is checked against what surrounds it, and nothing is copied but what is asked for.
"""

import os
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c

from ..errors import DataError, UndecodableImage
from ..remote import Location
from .listing import WNID, Found, Place, split_of
from .reading import read_range, refuse_large

HEADER, FOOTER = 12, 4  # bytes around the data
IMAGES = ("image", "image/encoded")
NAMES = ("file_name", "image/filename")
CLASSES = ("image/class/synset",)
LABELS = ("label", "image/class/label")


class Stretch:
    """Part of a file that can be sliced like bytes; only what is looked at is read, a block at a time, so that images are passed over.

    (A memory map would do the same, and kill the process when somebody truncates the file.)
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
        """Return one byte as a number, or a part."""
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
        """Return all of it."""
        return self._read(self._offset, self._size)

    def _read(self, offset: int, size: int) -> bytes:
        first, data = self._block[0]
        if first <= offset and offset + size <= first + len(data):
            return data[offset - first : offset - first + size]
        return read_range(self._path, offset, size)


Bytes = memoryview | Stretch
BYTES = (memoryview, Stretch)


def masked_crc(data: bytes | memoryview) -> int:
    """Return TFRecord's CRC of `data`: CRC-32C, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(bytes(data))
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def is_tfrecord(head: bytes) -> bool:
    """Tell a TFRecord by the checksum of its first length."""
    return len(head) >= HEADER and struct.unpack_from("<I", head, 8)[0] == masked_crc(head[:8])


def list_tfrecords(paths: list[Location], notes: list[str]) -> tuple[str, list[Found]]:
    """Return (shape, splits) of the files in `paths`."""
    found: dict[str, Found] = {}
    reader = TFRecordReader(paths)
    flavours: dict[str, None] = {}
    for number, path in enumerate(paths):
        split = split_of(path.name)
        part = found.setdefault(split, Found(split, reader))
        unlabelled = 0
        for offset, data in records(path):
            features = _features(path, offset, data)
            slim = "image/encoded" in features
            flavours["TFRecord of slim's" if slim else "TFRecord of TFDS's"] = None
            label, name = _integer(features, LABELS), _text(features, NAMES)
            class_id = _text(features, CLASSES)
            if label is not None and slim:
                label -= 1  # 0 is slim's background
            if (label is None or label < 0) and class_id is None:
                unlabelled += 1
                continue
            part.classes.append(class_id if class_id and WNID.fullmatch(class_id) else None)
            part.labels.append(-1 if label is None else label)
            part.names.append(os.fsencode(name or f"{path.name}-{offset}"))
            part.places.append(Place(part.names[-1], number, offset, len(data)))
        if unlabelled:
            notes.append(f"{path}: {unlabelled} images without a label (as in a test set) are not read")
    return " and ".join(flavours) or "TFRecord", [part for part in found.values() if part.places]


def records(path: Location) -> Iterator[tuple[int, Stretch]]:
    """Yield (offset of the data, data) of each record; DataError where the file is damaged. The data's own CRC is checked when it is read."""
    size = path.stat().st_size
    if size == 0:
        return
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
    """Yield (number, value) of a protocol buffer message: integers and byte ranges; ValueError if it is not one."""
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
    """Return (value, place after it) of a base-128 number of at most 64 bits; ValueError if it does not end."""
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
    """Return feature name -> its value's message, of an Example; ValueError if it is none."""
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
    """Return the first bytes of a bytes_list."""
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


def _integer(features: dict[str, Bytes], names: tuple[str, ...]) -> int | None:
    """Return the first number of an int64_list, packed or not."""
    try:
        for name in names:
            for number, values in fields(features.get(name, memoryview(b""))):
                if number != 3 or not isinstance(values, BYTES):
                    continue
                for kind, value in fields(values):
                    if kind == 1:
                        unsigned = value if isinstance(value, int) else varint(value, 0)[0]
                        return unsigned - (1 << 64) if unsigned >> 63 else unsigned
    except ValueError:
        return None
    return None


class TFRecordReader:
    """Images in records: `place.offset` and `place.size` are those of the record's data."""

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
