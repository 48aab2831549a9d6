"""List the images of a source: columns of keys, labels and places, in one fixed order.

A key is `<split>/<class>/<file name>`, the same for every shape of source, so that the same images
give the same shards. For a folder with train/ and val/ it is the path below that folder. A place
says where the bytes of an image lie.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from ..arrow import numbers, plain, strings
from ..errors import DataError
from ..storage.uri import Location

MAX_BYTES = 1 << 28  # largest encoded image, in bytes; a larger one is not read into memory
WNID = re.compile(r"n\d{8}")


class Place(NamedTuple):
    """Where the bytes of one image lie, as its split's reader understands it."""

    name: bytes  # path of the file below the source, or name of the member
    file: int  # index in the reader's files; -1: `name` is the file
    offset: int  # in the file, in bytes; for parquet: row group
    size: int  # bytes, -1: unknown; for parquet: row in the group


@runtime_checkable
class Reader(Protocol):
    """Reads images by their place. Cheap to pickle: each worker process gets a copy."""

    paths: list[Location]  # the files that `Place.file` indexes; empty if each image is a file

    def read(self, place: Place) -> bytes:
        """Return the bytes of an image. Raise UndecodableImage if they can never be read as an image, OSError if they are gone."""

    def where(self, place: Place) -> str:
        """Return a description of the place, for messages."""


@dataclass(eq=False)
class RawListing:
    """The images of one split as first listed, in any order; lists of equal length."""

    split: str
    reader: Reader
    of_rows: bool = False  # images are rows or records, which may have no names
    may_repeat: bool = False  # equal names are allowed; where the images lie tells them apart
    # class id of each image, None where only a number is known
    classes: list[str | None] = field(default_factory=list)
    # number of each image's class in the source's own list, -1: unknown; or empty
    labels: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)  # file name below the class folder
    places: list[Place] = field(default_factory=list)

    def extend(self, other: "RawListing") -> None:
        """Append the images of another listing with the same reader."""
        self.classes += other.classes
        self.labels += other.labels
        self.names += other.names
        self.places += other.places


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of one split, sorted by class and name, in columns (not one object per image)."""

    split: str
    # <split>/<class>/<file name>; UTF-8, or whatever bytes the file system allowed
    keys: pa.LargeBinaryArray
    labels: Int64[np.ndarray, "n"]  # index in the source's list of classes
    places: pa.RecordBatch  # name: large_binary, file: int32, offset: int64, size: int64

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, rows: Int64[np.ndarray, "m"]) -> "Listing":
        """Return a listing of the images in `rows` only."""
        indices = numbers(rows)
        return Listing(self.split, self.keys.take(indices), self.labels[rows], self.places.take(indices))

    def find(self, key: str) -> int | None:
        """Return the row of a key, None if it is not there."""
        row = pc.index(self.keys, pa.scalar(os.fsencode(key), pa.large_binary())).as_py()
        return None if row < 0 else row

    def take_one(self, row: int) -> Place:
        """Return the place of one image."""
        return Place._make(column[row].as_py() for column in self.places.columns)

    def rows(self) -> list[tuple[bytes, int, Place]]:
        """Return (key, label, place) of each image; meant for the images of one shard."""
        places = map(Place._make, zip(*(column.to_pylist() for column in self.places.columns), strict=True))
        return list(zip(self.keys.to_pylist(), self.labels.tolist(), places, strict=True))


@dataclass(eq=False)
class Source:
    """Raw images with labels, of any shape. Readers are cheap to pickle, listings are not."""

    shape: str  # the shape that was recognised
    where: str
    classes: list[str]  # ids in label order
    found: list[Listing]
    readers: dict[str, Reader]  # by split
    remarks: list[str]
    # by split: the classes that the first split does not have, and the number of their images
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)

    def listings(self) -> list[Listing]:
        """Return every split found."""
        return self.found

    def read(self, split: str, place: Place) -> bytes:
        """Return the bytes of one image. Raise UndecodableImage if they can never be read as an image, OSError if they are gone."""
        return self.readers[split].read(place)

    def notes(self) -> list[str]:
        """Return what a user should know: what was skipped, what is missing, and why."""
        return self.remarks

    def fingerprint(self) -> str:
        """Return a SHA-256 of the places and sizes of all images; it shows whether they changed."""
        digest = hashlib.sha256(self.shape.encode())
        for listing in self.found:
            digest.update(f"{listing.split} {len(listing)}\n".encode())
            for column in listing.places.columns:
                feed(digest, column)
        return digest.hexdigest()


def feed(digest: Any, column: pa.Array) -> None:  # noqa: ANN401  (hashlib has no public type)
    """Add the values of an Arrow column to a digest, whatever the offset of its buffers."""
    if pa.types.is_large_binary(column.type):
        data = pa.concat_arrays([column])
        _, offsets, values = data.buffers()
        ends = np.frombuffer(offsets, np.int64)[data.offset : data.offset + len(data) + 1]
        digest.update((ends - ends[0]).tobytes())
        digest.update(memoryview(values)[ends[0] : ends[-1]] if values is not None else b"")
    else:
        digest.update(plain(column).tobytes())


def listing_of(found: RawListing, classes: list[str], notes: list[str]) -> Listing:
    """Return the columns of `found`, sorted by label, then key.

    Keys that would be equal also name the folders and the file that hold the images. Raise
    DataError if that does not tell them apart.
    """
    number: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    labels = np.fromiter(map(number.__getitem__, found.classes), np.int64, len(found.classes))
    prefixes = [f"{found.split}/{name}/".encode("utf-8", "surrogateescape") for name in classes]
    keys = strings(
        [prefixes[number[name]] + file for name, file in zip(found.classes, _told_apart(found, labels, notes), strict=True)], pa.large_binary()
    )
    names, files, offsets, sizes = zip(*found.places, strict=True)
    where = [numbers(np.array(column, kind)) for column, kind in ((files, np.int32), (offsets, np.int64), (sizes, np.int64))]
    places = pa.record_batch([strings(names, pa.large_binary()), *where], ["name", "file", "offset", "size"])
    order = pc.sort_indices(pa.table([numbers(labels), keys], ["label", "key"]), [("label", "ascending"), ("key", "ascending")])
    keys = keys.take(order)
    twin = _twin(keys)
    if twin is not None:
        raise DataError(f"the {found.split} split has two images called {shown(twin)}; rename or remove one of them")
    return Listing(found.split, keys, labels[plain(order)], places.take(order))


def _twin(sorted_keys: pa.LargeBinaryArray) -> bytes | None:
    """Return a key that occurs twice, None if there is none."""
    if len(sorted_keys) < 2:
        return None
    same = pc.equal(sorted_keys[1:], sorted_keys[:-1])
    return sorted_keys[pc.index(same, True).as_py()].as_py() if pc.any(same).as_py() else None


def _told_apart(found: RawListing, labels: Int64[np.ndarray, "n"], notes: list[str]) -> list[bytes]:
    """Return the names of the images below their classes, made unique within a class if possible.

    A name that occurs twice is preceded by the folders that the image has in its archive or column.
    If that is not enough, the name of the file is added, too; then the image's own name in the
    archive or, in a table, its number among the images of the same name.
    """
    names = found.names
    if not found.may_repeat:
        return names
    files = _file_names(found.reader.paths)
    for longer in (_with_folders, _with_file):
        seen = Counter(zip(labels.tolist(), names, strict=True))
        if len(seen) == len(names):
            return names
        if longer is _with_folders:
            count = sum(times for times in seen.values() if times > 1)
            notes.append(f"{count} images of {found.split} have names that occur twice in their class: their keys also say where they lie")
        names = [longer(found, files, i, key[1]) if seen[key] > 1 else key[1] for i, key in enumerate(zip(labels.tolist(), names, strict=True))]
    seen, before = Counter(zip(labels.tolist(), names, strict=True)), Counter[tuple[int, bytes]]()
    told = []
    for row, key in enumerate(zip(labels.tolist(), names, strict=True)):
        before[key] += 1
        folders, _, file = key[1].rpartition(b"/")
        own = b"%08d" % before[key] if found.of_rows else found.places[row].name.rpartition(b"/")[2]
        told.append(key[1] if seen[key] == 1 or own == file else b"/".join(part for part in (folders, own, file) if part))
    return told


def _file_names(paths: list[Location]) -> list[bytes]:
    """Return the names of files without their last extension, made unique.

    Equal names are preceded by the name of the folder; if they are still equal, by a number.
    """
    names = [re.sub(r"\.[^.]*$", "", path.name) for path in paths]
    for before in ([path.parent.name for path in paths], [f"{number:05}" for number in range(len(paths))]):
        seen = Counter(names)
        names = [f"{first}/{name}" if seen[name] > 1 else name for first, name in zip(before, names, strict=True)]
    return [os.fsencode(name.lstrip("/")) for name in names]


def _with_folders(found: RawListing, _files: list[bytes], row: int, name: bytes) -> bytes:
    parts = [part for part in found.places[row].name.split(b"/")[:-1] if part not in (b"", b".", b"..")]
    return b"/".join([*parts, name])


def _with_file(found: RawListing, files: list[bytes], row: int, name: bytes) -> bytes:
    return files[found.places[row].file] + b"/" + name


def unread(path: Location, unlabelled: int, junk: int = 0) -> list[str]:
    """Return notes on images of a file that are not read: unlabelled, or an operating system's."""
    return [
        *([f"{path}: {unlabelled} images without a label (as in a test set) are not read"] if unlabelled else []),
        *([f"{path}: {junk} files of an operating system (such as ._x.jpg) are not read"] if junk else []),
    ]


def clean_name(name: str, class_id: str | None) -> bytes:
    """Return the file name that the image has in ImageNet's own archives.

    Hugging Face appends the class (n01440764_10026_n01440764.JPEG), WebDataset drops the extension;
    both changes are undone.
    """
    path = name.rstrip("/").rpartition("/")[2]
    stem, dot, extension = path.rpartition(".")
    if not dot:
        stem, extension = path, ""
    if class_id and WNID.fullmatch(class_id) and stem.endswith(f"_{class_id}") and re.fullmatch(r"(n\d{8}_\d+|ILSVRC\d{4}_\w+?_\d{8})_n\d{8}", stem):
        stem = stem.removesuffix(f"_{class_id}")
    if re.fullmatch(r"n\d{8}_\d+|ILSVRC\d{4}_(train|val|test)_\d{8}", stem) and extension.lower() in ("", "jpg", "jpeg"):
        extension = "JPEG"
    return os.fsencode(f"{stem}.{extension}" if extension else stem)


def shown(name: bytes | str) -> str:
    """Return `name` with bytes that are not UTF-8 escaped, so that it can be printed and stored."""
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate, which JSON can contain
        data = str(name).encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def some(names: Sequence[str], count: int = 3) -> str:
    """Return the first `count` of `names`, joined for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
