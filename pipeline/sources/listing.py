"""What a source offers: columns of images in one fixed order, whatever the shape they come in, and their bytes by place.

A key is `<split>/<class>/<file name>`, the same for every shape, so that the same images give the same shards. For a
folder with train/ and val/ it is the path below it.
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

MAX_BYTES = 1 << 28  # of one encoded image; a larger one is not read into memory
WNID = re.compile(r"n\d{8}")


class Place(NamedTuple):
    """Where the bytes of one image lie, as its split's reader understands it."""

    name: bytes  # of the file below the source, or of the member
    file: int  # which of the reader's files, -1: `name` is the file
    offset: int  # in the file, bytes; of parquet: row group
    size: int  # bytes, -1: unknown; of parquet: row in the group


@runtime_checkable
class Reader(Protocol):
    """Reads images by their place. Cheap to pickle: worker processes get a copy each."""

    paths: list[Location]  # the files that places count; none if each image is a file

    def read(self, place: Place) -> bytes:
        """Return the bytes; UndecodableImage if it cannot be read as one, OSError if it is gone."""

    def where(self, place: Place) -> str:
        """Say where that is, for people."""


@dataclass(eq=False)
class RawListing:
    """The images of one split as one shape lists them, in any order; lists of equal length."""

    split: str
    reader: Reader
    of_rows: bool = False  # images are rows of tables, which need no names
    may_repeat: bool = False  # names of images may be equal, and are told apart by where the images lie
    classes: list[str | None] = field(default_factory=list)  # id of each image's class, None where only a number is known
    labels: list[int] = field(default_factory=list)  # its number in the source's own list of classes, -1: unknown; or empty
    names: list[bytes] = field(default_factory=list)  # file name below the class folder
    places: list[Place] = field(default_factory=list)

    def extend(self, other: "RawListing") -> None:
        """Take the images of another one, which the same reader reads."""
        self.classes += other.classes
        self.labels += other.labels
        self.names += other.names
        self.places += other.places


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of one split, sorted by class and name. Columns, not one object an image."""

    split: str
    keys: pa.LargeBinaryArray  # <split>/<class>/<file name>; UTF-8, or the odd bytes that a file system allowed
    labels: Int64[np.ndarray, "n"]  # place in the source's list of classes
    places: pa.RecordBatch  # name: large_binary, file: int32, offset: int64, size: int64

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def take(self, rows: Int64[np.ndarray, "m"]) -> "Listing":
        """Return some of the images."""
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
        """Return (key, label, place) of each image: for a shard's worth of them."""
        places = map(Place._make, zip(*(column.to_pylist() for column in self.places.columns), strict=True))
        return list(zip(self.keys.to_pylist(), self.labels.tolist(), places, strict=True))


@dataclass(eq=False)
class Source:
    """Raw images with labels, of any shape. Cheap to pickle once the listings are dropped (`reader_only`)."""

    shape: str  # what it was recognised as
    where: str
    classes: list[str]  # ids in label order
    found: list[Listing]
    readers: dict[str, Reader]  # by split
    remarks: list[str]
    left_out: dict[str, dict[str, Any]] = field(default_factory=dict)  # by split: classes that train has not, and their images

    def listings(self) -> list[Listing]:
        """Return every split found."""
        return self.found

    def read(self, split: str, place: Place) -> bytes:
        """Return the bytes of one image; raise UndecodableImage if it cannot be read as one, OSError if it is gone."""
        return self.readers[split].read(place)

    def notes(self) -> list[str]:
        """Return what a user should know: what was passed over, what is missing, and why."""
        return self.remarks

    def fingerprint(self) -> str:
        """Return a SHA-256 of where every image lies and how large it is: another one means that the source was changed."""
        digest = hashlib.sha256(self.shape.encode())
        for listing in self.found:
            digest.update(f"{listing.split} {len(listing)}\n".encode())
            for column in listing.places.columns:
                feed(digest, column)
        return digest.hexdigest()


def feed(digest: Any, column: pa.Array) -> None:  # noqa: ANN401  (hashlib's objects have no public type)
    """Add an Arrow column to a digest by its values, whatever the offset of its buffers."""
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

    Images whose keys would be the same have the folders and the file in them that they lie in; DataError if that does not tell them apart.
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
    """Return a key that is there twice, None if there is none."""
    if len(sorted_keys) < 2:
        return None
    same = pc.equal(sorted_keys[1:], sorted_keys[:-1])
    return sorted_keys[pc.index(same, True).as_py()].as_py() if pc.any(same).as_py() else None


def _told_apart(found: RawListing, labels: Int64[np.ndarray, "n"], notes: list[str]) -> list[bytes]:
    """Return the names of the images below their classes, told apart within a class as far as the source tells them apart.

    Of names that are there twice each gets the folders before it that the image has in its archive or column; if that is not enough, the
    name of the file, too; then its own name in the archive or, in a table, its number among those of the same name.
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
            notes.append(f"{count} images of {found.split} have names that occur twice in their class: the keys have where they lie, too")
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
    """Return the names of files without their last extension; of those with one name, the folder's too; then their number."""
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
    """Return the notes on images of a file that are not read: without a label, and of an operating system."""
    return [
        *([f"{path}: {unlabelled} images without a label (as in a test set) are not read"] if unlabelled else []),
        *([f"{path}: {junk} files of an operating system (such as ._x.jpg) are not read"] if junk else []),
    ]


def clean_name(name: str, class_id: str | None) -> bytes:
    """Return the file name that the image has in ImageNet's own archives.

    Hugging Face appends the class (n01440764_10026_n01440764.JPEG), WebDataset drops the extension: both are undone.
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
    """Return `name` with bytes that are not UTF-8 escaped, so that it can be printed and written down."""
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:  # half a character, which JSON can have
        data = str(name).encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace")


def some(names: Sequence[str], count: int = 3) -> str:
    """Return the first few of `names` for a message."""
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
