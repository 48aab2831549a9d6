"""Recognise the shape of a source by the first bytes of its files; names decide only splits.

In:  a folder, a file or a URI.    Out: a Source: classes in label order, listings, readers.
"""

from pathlib import Path

from ..errors import DataError
from ..storage.uri import Location, RemotePath, is_served, location
from .classes import LabelOrder, all_classes, declared_classes, leave_out_unknown, name_classes
from .formats.folder import Folder
from .formats.parquet import list_parquet
from .formats.tars import list_tars
from .formats.tfrecord import list_tfrecords
from .labels import ClassOf, missing_from_ilsvrc2012
from .layout import SourceLayout, layout_of
from .listing import RawListing, Source, listing_of, some
from .splits import ORDER


def find_source(
    where: str | Path | RemotePath, label_order: LabelOrder = "sorted", *, first_label: int | None = None, skip_unknown_classes: bool = False
) -> Source:
    """Find and list the source at `where`; DataError says what was found and what was expected.

    Labels number the sorted class ids; or they follow the devkit (`label_order="devkit"`) or the source's own numbers
    ("source"), which count from `first_label` (None: 1 in slim's TFRecord files, else 0). If a later split has classes
    that the first split does not have, raise DataError, or leave their images out (`skip_unknown_classes`).
    """
    root = location(where)
    if is_served(root):
        raise DataError(f"{root} serves finished records; a source is raw images")
    if not root.is_dir() and not root.is_file():
        raise DataError(
            f"no folder {root}: expected one with train/<class>/<image> and val/<class>/<image>, or ImageNet's tars, parquet or TFRecord files"
        )
    notes: list[str] = []
    try:
        return _found(root, label_order, first_label, notes, skip=skip_unknown_classes)
    except RecursionError as error:
        raise DataError(f"{root} has folders a thousand deep, or links in a circle: give --src a folder without them") from error
    except DataError as error:  # earlier notes may explain the error
        raise DataError("\n  ".join([str(error), *(f"noted before: {note}" for note in notes)])) from error


def _found(root: Location, label_order: LabelOrder, first_label: int | None, notes: list[str], *, skip: bool) -> Source:
    layout = layout_of(root, notes)
    class_of = ClassOf(layout.wrappers)
    shape, found, names, declared = _listed(layout, class_of, first_label, notes)
    found = sorted((part for part in found if part.places), key=lambda part: ORDER.index(part.split))
    if not found:
        raise DataError(f"no images under {root}: expected class folders, ImageNet's tars, WebDataset tars, parquet or TFRecord files")
    name_classes(found, names, class_of, notes)
    declared = declared or declared_classes(names, found)
    left_out = leave_out_unknown(root, found, declared, skip=skip)
    found = [part for part in found if part.places]
    classes = all_classes(root, found, declared, label_order, class_of, notes)
    if len(classes) == 1:
        notes.append(f"{root}: all images are of one class, {classes[0]}; if that folder holds images of several classes, their labels are unknown")
    for part in found:
        missing = sorted(set(classes) - set(part.classes))
        if missing:
            notes.append(f"{root}: {len(missing)} of {len(classes)} classes have no image in {part.split} ({some(missing)})")
    for split, facts in left_out.items():
        lacking = f"{found[0].split} does not have their {len(facts['classes'])} classes ({some(facts['classes'])})"
        notes.append(f"{root}: {facts['images']} images of {split} are left out: {lacking}")
    listings = [listing_of(part, classes, notes) for part in found]
    notes.extend(missing_from_ilsvrc2012(classes, listings))
    return Source(shape, str(root), classes, listings, {part.split: part.reader for part in found}, notes, left_out)


def _listed(layout: SourceLayout, class_of: ClassOf, first_label: int | None, notes: list[str]) -> tuple[str, list[RawListing], list[str], list[str]]:
    """Return (shape, splits, class names that the files give, classes that may have no image)."""
    kinds = sorted({file.kind for file in layout.files})
    if len(kinds) > 1:
        raise DataError(f"{layout.folder} has files of several shapes ({', '.join(kinds)}): give --src the folder of one of them")
    files, names = [(file.path, file.split) for file in layout.files], list[str]()
    if not kinds and layout.folder.is_file():
        raise DataError(f"{layout.folder} is a file that is no tar, parquet or TFRecord: expected one of these, or a folder")
    match kinds:
        case ["tar"]:
            shape, found = list_tars(files, layout.default, first_label, class_of, notes)
        case ["parquet"]:
            shape, found, names = list_parquet(files, layout.default, first_label, notes)
        case ["TFRecord"]:
            shape, found = list_tfrecords(files, layout.default, first_label, notes)
        case _:
            shape, found = "", []
    if kinds and not layout.splits:
        return shape, found, names, []
    folder = Folder(layout, class_of)
    splits = frozenset(part.split for part in found)
    beside = folder.find(without=splits)
    notes.extend(folder.notes)
    twice = [f"{name}/" for split, name in layout.splits.items() if split in splits and folder.has_classes(name)]
    if twice:
        notes.append(f"{layout.folder}: {some(twice)} is not read: its images are in the {kinds[0]} files")
    if kinds:
        return shape, found + beside, names, []
    kaggle = layout.folder.name == "CLS-LOC"
    return (f"Kaggle's CLS-LOC ({folder.shape})" if kaggle else folder.shape), beside, names, folder.classes
