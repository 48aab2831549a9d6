"""Which shape a source has, by what its files begin with; names decide only splits.

In:  a folder, a file or a URI.    Out: a Source: classes in label order, listings, readers.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..errors import DataError
from ..remote import Location, RemotePath, is_served, location, present
from .folder import KAGGLE, Folder
from .labels import ClassOf, devkit_order, ilsvrc2012, missing_from_ilsvrc2012
from .listing import Found, Source, clean_name, listing_of, shown, some
from .parquet import list_parquet
from .tars import is_tar, list_tars
from .tfrecord import is_tfrecord, list_tfrecords

LabelOrder = Literal["sorted", "devkit"]
SPLIT_ORDER = ("train", "val", "test")
PASSED = re.compile(r"(?i)\.(jpe?g|png|txt|json|csv|md)$")
HEAD = 512  # bytes that tell what a file is
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}


def find_source(where: str | Path | RemotePath, label_order: LabelOrder = "sorted") -> Source:
    """Return the source at `where`, listed; DataError says what was found there and what was expected.

    Labels number the sorted class ids, or follow the devkit (`label_order="devkit"`).
    """
    root = location(where)
    if is_served(root):
        raise DataError(f"{root} serves finished records; a source is raw images")
    if not root.is_dir() and not root.is_file():
        raise DataError(
            f"no folder {root}: expected one with train/<class>/<image> and val/<class>/<image>, or ImageNet's tars, parquet or TFRecord files"
        )
    kaggle = next((root / below for below in KAGGLE if (root / below).is_dir()), None) if root.is_dir() else None
    class_of = ClassOf(root)
    notes: list[str] = []
    names: list[str] = []
    declared: list[str] = []  # classes that may have no image
    data = [] if kaggle else list(_data_files(root))
    kinds = {kind for kind, _ in data}
    if len(kinds) > 1:
        raise DataError(f"{root} has files of several shapes ({', '.join(sorted(kinds))}): give --src the folder of one of them")
    paths = [path for _, path in data]
    match next(iter(kinds), "folder"):
        case "tar":
            shape, found = list_tars(paths, class_of, notes)
            found += _beside(root, {part.split for part in found}, class_of, notes)
        case "parquet":
            shape, found, names = list_parquet(paths, notes)
        case "TFRecord":
            shape, found = list_tfrecords(paths, notes)
        case _:
            if root.is_file():
                raise DataError(f"{root} is a file that is no tar, parquet or TFRecord: expected one of these, or a folder")
            folder = Folder(kaggle or root, class_of)
            try:
                found, notes, declared = folder.find(), folder.notes, folder.classes
            except RecursionError as error:
                raise DataError(f"{root} has folders a thousand deep, or links in a circle: give --src a folder without them") from error
            shape = f"Kaggle's CLS-LOC ({folder.shape})" if kaggle else folder.shape
    found = sorted((part for part in found if part.places), key=lambda part: SPLIT_ORDER.index(part.split))
    if not found:
        raise DataError(f"no images under {root}: expected class folders, ImageNet's tars, WebDataset tars, parquet or TFRecord files")
    name_classes(found, names, class_of, notes)
    classes = _classes(root, found, declared)
    if label_order == "devkit":
        classes = devkit_order(root, class_of.devkit, classes)
    first = set(found[0].classes)
    missing = [name for name in classes if name not in first]
    if missing and not declared:
        notes.append(f"{root}: {len(missing)} classes of other splits have no image in {found[0].split} ({some(missing)})")
    listings = [listing_of(part, classes) for part in found]
    notes.extend(missing_from_ilsvrc2012(classes, listings))
    return Source(shape, str(root), classes, listings, {part.split: part.reader for part in found}, notes)


def _data_files(root: Location) -> Iterator[tuple[str, Location]]:
    """Yield (kind, path) of the tars, parquet and TFRecord files in `root`, or in its data/ or one folder a split."""
    if root.is_file():
        kind = _kind(root)
        if kind:
            yield kind, root
        return
    for folder in (root, *(root / name for name in ("data", "train", "val", "validation", "test"))):
        for path in sorted(_files(folder), key=lambda path: path.name):
            kind = _kind(path)
            if kind:
                yield kind, path


def _files(folder: Location) -> Iterator[Location]:
    """Yield the files in `folder` that might hold a data set; images and texts are known by their names and not opened."""
    if folder.is_dir():
        yield from (folder / name for name in present(folder) if not name.startswith(".") and not PASSED.search(name))


def _kind(path: Location) -> str | None:
    if isinstance(path, RemotePath):
        with path.open_random() as file:
            head = bytes(file.read(HEAD))
    else:
        try:
            with path.open("rb") as file:
                head = file.read(HEAD)
        except PermissionError as error:
            raise DataError(f"{path}: no permission to read it") from error
    for magic, name in COMPRESSED.items():
        if head.startswith(magic) and "devkit" not in path.name.lower() and re.search(r"(?i)\.(tar|tgz|tfrecord|zip)|-of-\d+", path.name):
            raise DataError(f"{path} is compressed ({name}), so that no image in it can be read by itself: decompress it first")
    if head.startswith(b"PAR1"):
        return "parquet"
    if is_tar(head):
        return "tar" if "devkit" not in path.name.lower() else None
    return "TFRecord" if is_tfrecord(head) else None


def _beside(root: Location, splits: set[str], class_of: ClassOf, notes: list[str]) -> list[Found]:
    """Return folders for the splits that no tar has, such as an unpacked val/ beside the training tar."""
    if root.is_file() or not any((root / name).is_dir() for name in ("train", "val", "validation", "test")):
        return []
    folder = Folder(root, class_of)
    found = [part for part in folder.find() if part.split not in splits]
    notes.extend(folder.notes)
    return found


def name_classes(found: list[Found], names: list[str], class_of: ClassOf, notes: list[str]) -> None:
    """Fill in the class ids where a source has only numbers, and give the images the names they have in ImageNet's archives.

    An id is taken from the image's name (n01440764_10026.JPEG), else from its number: from the ids of other images of that
    number, the class names of the files, ImageNet's own list, or the number itself. DataError if a number has two ids.
    """
    ids: dict[int, str] = {}
    for part in found:
        for i, name in enumerate(part.names):
            text = os.fsdecode(name)
            if part.classes[i] is None:
                part.classes[i] = _id_in(text) or class_of(text.rpartition("/")[2].partition(".")[0])
            class_id, label = part.classes[i], part.labels[i] if part.labels else -1
            if class_id is not None and label >= 0 and ids.setdefault(label, class_id) != class_id:
                raise DataError(f"the label {label} is {shown(ids[label])} in one image and {shown(class_id)} in {shown(name)}: the labels are wrong")
    known = ilsvrc2012()[0]
    like_ilsvrc = bool(ids) and all(label < len(known) and known[label] == class_id for label, class_id in ids.items())
    last = max((max(part.labels, default=-1) for part in found), default=-1)
    usable = len(set(names)) == len(names)
    for part in found:
        for i, name in enumerate(part.names):
            if part.classes[i] is None:
                label = part.labels[i]
                if like_ilsvrc and last < len(known):
                    part.classes[i] = known[label]
                else:
                    named = names[label].replace("/", "_") if usable and label < len(names) else f"{label:0{len(str(last))}}"
                    part.classes[i] = ids.get(label) or named
            if part.labels:
                part.names[i] = clean_name(os.fsdecode(name), part.classes[i])
    order = [ids[label] for label in sorted(ids)]
    if order != sorted(order):
        notes.append("the source numbers its classes in another order than that of their sorted ids; the shards' labels follow the sorted ids")


def _id_in(name: str) -> str | None:
    stem = name.rpartition("/")[2].partition(".")[0]
    match = re.fullmatch(r"(n\d{8})_\d+(?:_n\d{8})?", stem) or re.fullmatch(r"ILSVRC\d{4}_\w+?_\d{8}_(n\d{8})", stem)
    return match[1] if match else None


def _classes(root: Location, found: list[Found], declared: list[str]) -> list[str]:
    """Return the sorted ids of all classes; DataError for one that could not be a folder's name."""
    classes = sorted({str(class_id) for part in found for class_id in part.classes} | set(declared))
    for name in classes:
        if not name or name in (".", "..") or re.search(r"[/\0]", name):
            raise DataError(f"{root} has a class called {shown(name)!r}, which cannot be a folder's name")
        if shown(name) != name:
            raise DataError(f"{root}: the class {shown(name)} has a name that is not UTF-8; rename it")
    return classes
