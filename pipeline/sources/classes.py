"""Derive the list of classes from the labels in a source, by the same rules for every shape.

A source gives each image a number, an id, or both. A number may also be text ("7") or a float
(7.0, "7.0"). A negative number or an empty value means that the image has no label. The final
labels number the classes in the requested order.
"""

import math
import os
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

from ..errors import DataError
from ..names import why_unsafe
from ..storage.uri import Location
from .labels import ClassOf, devkit_order, ilsvrc2012
from .listing import WNID, RawListing, clean_name, shown, some

LabelOrder = Literal["sorted", "devkit", "source"]
MAX_NUMBER = 1 << 31  # largest label that is accepted; no data set has so many classes
MOST_CLASSES = 1 << 20  # largest class list of --label-order source, empty classes included
_NUMBER = re.compile(r"[+-]?\d{1,10}(\.\d*)?")
_NOTHING = ("nan", "NaN", "null", "<NA>")  # missing values, as pandas and JSON write them
_ORDERED = "--label-order source keeps the source's own numbers"


class Unlabelled:
    """The value that `label_of` returns for an image without a label."""


UNLABELLED = Unlabelled()


def label_of(value: Any) -> int | str | Unlabelled:  # noqa: ANN401  (from a file)
    """Return a label as a number or an id, UNLABELLED for an empty value or a negative number. Raise ValueError if `value` cannot be a label."""
    if isinstance(value, bytes):
        value = value.decode()  # UnicodeDecodeError is a ValueError
    if value is None:
        return UNLABELLED
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        # ValueError, as for every other wrong label.
        raise ValueError(f"{value!r} is no label: expected a number or a text")  # noqa: TRY004
    if isinstance(value, str):
        text = value.strip()
        os.fsencode(text)  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
        if not text or text in _NOTHING:
            return UNLABELLED
        if not _NUMBER.fullmatch(text):
            return text
        value = Decimal(text)
    if isinstance(value, float | Decimal):
        if math.isnan(value):
            return UNLABELLED
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise ValueError(f"{value} is no label: no data set has so many classes")
        if value != value // 1:
            raise ValueError(f"{value} is no label: expected a whole number")
    number = int(value)
    if number > MAX_NUMBER:
        raise ValueError(f"{number} is no label: no data set has so many classes")
    return number if number >= 0 else UNLABELLED


def from_zero(number: int, first: int, where: str, *, strict: bool = True) -> int:
    """Return `number` counted from 0, where the source's labels count from `first`.

    Raise DataError for a smaller number; unless `strict`, return -1 for it instead.
    """
    if number >= first:
        return number - first
    if strict:
        raise DataError(
            f"{where} has the label {number}; expected labels from {first} on (in slim's TFRecord files, 0 is the background class): "
            "if these labels count from 0, give --first-label 0"
        )
    return -1


def name_classes(found: list[RawListing], names: list[str], class_of: ClassOf, notes: list[str]) -> None:
    """Fill in missing class ids, and rename the images as they are named in ImageNet's archives.

    A missing id is taken from the image's name (n01440764_10026.JPEG), else from its number: from the ids of other
    images with that number, the class names in the files, ImageNet's own list, or the number itself. Raise DataError if
    a number has two ids, or if it has none although the files name their classes.
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
    naming = _Naming(ids, names, max((max(part.labels, default=-1) for part in found), default=-1))
    for part in found:
        numbered = [i for i, class_id in enumerate(part.classes) if class_id is None]
        labelled = zip(part.classes, part.labels, strict=False) if numbered and not names else ()
        texts = {class_id for class_id, label in labelled if label < 0 and class_id and not WNID.fullmatch(class_id)}
        if texts:  # such as classes 0 to 9 and A to Z: all are text
            notes.append(
                f"{part.split}: {len(numbered)} labels are numbers, the others texts ({some(sorted(map(shown, texts)))}): all are taken as texts"
            )
            for i in numbered:
                part.classes[i], part.labels[i] = str(part.labels[i]), -1
            numbered = []
        for i in numbered:
            part.classes[i] = naming.of(part.labels[i])
        if part.labels:
            part.names = [clean_name(os.fsdecode(name), class_id) for name, class_id in zip(part.names, part.classes, strict=True)]


class _Naming:
    """Maps the label numbers of a source to class ids."""

    def __init__(self, ids: dict[int, str], names: list[str], last: int) -> None:
        known = ilsvrc2012()[0]
        like_ilsvrc = bool(ids) and last < len(known) and all(known[label] == class_id for label, class_id in ids.items())
        self._known = known if like_ilsvrc else []
        self._ids, self._digits = ids, len(str(max(last, 0)))
        # If two classes have the same name, only their numbers tell them apart.
        self._names = names if len(set(names)) == len(names) else []

    def of(self, label: int) -> str:
        """Return the class id of a label number."""
        if self._known:
            return self._known[label]
        if label in self._ids:
            return self._ids[label]
        if self._names and label >= len(self._names):
            raise DataError(
                f"an image has the label {label}, but the files name {len(self._names)} classes, numbered from 0: the labels are wrong, "
                "or they count from 1 (--first-label 1)"
            )
        return self._names[label] if self._names else f"{label:0{self._digits}}"


def declared_classes(names: list[str], found: list[RawListing]) -> list[str]:
    """Return the classes that the files name, including classes without images.

    Return an empty list if the names are not unique, or if an image has another class.
    """
    if not names or len(set(names)) < len(names):
        return []
    return names if {str(class_id) for part in found for class_id in part.classes} <= set(names) else []


def _id_in(name: str) -> str | None:
    stem = name.rpartition("/")[2].partition(".")[0]
    match = re.fullmatch(r"(n\d{8})_\d+(?:_n\d{8})?", stem) or re.fullmatch(r"ILSVRC\d{4}_\w+?_\d{8}_(n\d{8})", stem)
    return match[1] if match else None


def ordered(ids: Iterable[str]) -> list[str]:
    """Return ids sorted: as numbers if all of them are numbers, else as text."""
    ids = list(ids)
    if all(re.fullmatch(r"[0-9]{1,18}", name) for name in ids):
        return sorted(ids, key=lambda name: (int(name), name))
    return sorted(ids)


def all_classes(root: Location, found: list[RawListing], declared: list[str], order: LabelOrder, class_of: ClassOf, notes: list[str]) -> list[str]:
    """Return the classes in label order.

    Classes in `declared` keep their places even if they have no image. Raise DataError for a class
    name that cannot be a folder's name, or for an order that the source does not allow.
    """
    classes = ordered({str(class_id) for part in found for class_id in part.classes} | set(declared))
    for name in classes:
        if shown(name) != name:
            raise DataError(f"{root}: the class {shown(name)} has a name that is not UTF-8; rename it")
        reason = why_unsafe(name)
        if reason:
            raise DataError(f"{root} has a class called {shown(name)[:100]!r}, which cannot be a folder's name: {reason}")
    if order == "devkit":
        return devkit_order(root, class_of.devkit, classes)
    number = _numbering(found)
    if order == "source":
        return _source_order(root, number, classes, declared)
    theirs = declared if number and declared else [number[label] for label in sorted(number)]
    if theirs != ordered(theirs):
        notes.append(
            f"the source numbers its classes in another order than that of their sorted ids; the shards' labels follow the sorted ids ({_ORDERED})"
        )
    elif number and not declared and len(number) <= max(number):
        notes.append(f"of the source's labels 0 to {max(number)} only {len(number)} are used; the shards' labels leave no gaps ({_ORDERED})")
    return classes


def _numbering(found: list[RawListing]) -> dict[int, str]:
    """Return {number: class id} for the classes that the source numbers."""
    number: dict[int, str] = {}
    for part in found:
        number |= {label: str(class_id) for label, class_id in zip(part.labels, part.classes, strict=False) if label >= 0}
    return number


def _source_order(root: Location, number: dict[int, str], classes: list[str], declared: list[str]) -> list[str]:
    """Return the classes by the source's own numbers; classes without images keep their places."""
    last = max(max(number, default=-1), len(declared) - 1)
    if last >= MOST_CLASSES:
        raise DataError(f"--label-order source: {root} has the label {last}; this option supports at most {MOST_CLASSES} classes")
    digits = len(str(max(number, default=0)))
    found = [number.get(label) or (declared[label] if label < len(declared) else f"{label:0{digits}}") for label in range(last + 1)]
    if not number or len(set(found)) < len(found) or not set(classes) <= set(found):
        raise DataError(f"--label-order source: {root} does not give each class a number of its own; leave the option out")
    return found


def leave_out_unknown(root: Location, found: list[RawListing], known: list[str], *, skip: bool) -> dict[str, dict[str, Any]]:
    """Leave out images of classes that neither the first split has nor the source lists (`known`).

    Without `skip`, raise DataError if there are any.
    Return {split: {"classes": unknown classes, "images": number of images left out}}.
    """
    first, *others = found
    classes = {str(name) for name in first.classes} | set(known)
    left_out: dict[str, dict[str, Any]] = {}
    for part in others:
        unknown = sorted({str(name) for name in part.classes} - classes)
        if not unknown:
            continue
        keep = [i for i, name in enumerate(part.classes) if name in classes]
        count = len(part.classes) - len(keep)
        if not skip:
            names = some([shown(name) for name in unknown], 5)
            raise DataError(
                f"{root}: the {part.split} split has classes that {first.split} does not have: {names} ({count} images). "
                "If the splits name or number the same classes differently, make them agree; "
                "--skip-unknown-classes leaves these images out"
            )
        left_out[part.split] = {"classes": unknown, "images": count}
        part.classes, part.names, part.places = ([column[i] for i in keep] for column in (part.classes, part.names, part.places))  # type: ignore[assignment]
        part.labels = [part.labels[i] for i in keep] if part.labels else []
    return left_out
