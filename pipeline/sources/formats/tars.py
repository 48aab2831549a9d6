"""List tar archives in place: ILSVRC's tar of class tars, its validation tar, WebDataset shards.

Listing reads only headers; reading an image reads one range of the file. Member names are used only
in keys, so `..`, links and absolute names do no harm.
"""

import os
import re
from collections import Counter
from itertools import islice

from ...errors import DataError
from ...storage.uri import Location
from ..heads import begins, compression, is_tar
from ..labels import NUMBERED, ClassOf
from ..listing import WNID, Place, RawListing, clean_name, shown, some
from ..reading import RangeReader, read_range
from ..splits import apart, exact_split, folder_splits, is_called_a_split, is_junk_path, settled
from .archives import Member, Passed, members
from .webdataset import Tar, list_webdataset

LOOKED_AT = 16  # members that are examined to recognise a tar
ENDING = re.compile(r"(?i)\.tar$")
CLASS_TARS, FLAT, WEBDATASET = "ILSVRC tar of class tars", "ILSVRC validation tar", "WebDataset"
NOT_A_CLASS = re.compile(r"(?i)(^readme[^.]*|\.(txt|md|json|csv|xml|ya?ml|html?|pdf|mat|py|sh))$")


def list_tars(
    files: list[tuple[Location, str | None]], default: str, first_label: int | None, class_of: ClassOf, notes: list[str]
) -> tuple[str, list[RawListing]]:
    """Return (shape, splits) of tars; `files` are (path, split that its path names).

    Each tar is recognised by some of its members. Raise DataError for a part that cannot be read:
    its classes would be missing, which would change the labels after them.
    """
    found: dict[str, RawListing] = {}
    paths = [path for path, _ in files]
    reader = RangeReader(paths)
    passed = Passed()
    shapes = [_shape(path) for path in paths]
    samples = [number for number, shape in enumerate(shapes) if shape == WEBDATASET]
    named = dict(zip(samples, settled([files[number] for number in samples], default), strict=True))
    for number, (path, split) in enumerate(files):
        if shapes[number] == CLASS_TARS:
            outers, inside = _class_tars(path, notes)
            if split and inside not in (None, split):
                raise DataError(f"{path} belongs to the split {split} by its name, but to {inside} by the folders in it: rename one of them")
            part = split or inside or default
            _list_class_tars(path, number, outers, found.setdefault(part, RawListing(part, reader)), passed)
        elif shapes[number] == FLAT:
            _list_flat(path, number, reader, found, class_of, passed, notes)
        else:
            tar = Tar(path, number, named[number], split is not None, first_label or 0)
            list_webdataset(tar, reader, found, passed, notes)
    notes.extend(passed.notes())
    return " and ".join(dict.fromkeys(shapes)), list(found.values())


def _shape(path: Location) -> str:
    """Return which kind of tar it is, by its first members, since a single one may be damaged."""
    begin = list(islice((member for member in members(path) if not is_junk_path(member.name)), LOOKED_AT))
    if not begin:
        raise DataError(f"{path} is an empty tar; fetch it again, or move it out of the source")
    inner = [member for member in begin if is_tar(read_range(path, member.offset, min(512, member.size)))]
    if inner or all(ENDING.search(member.name) for member in begin):
        return CLASS_TARS
    stems, folders = [_stem(member) for member in begin], {member.name.rpartition("/")[0] for member in begin}
    in_a_class = any(WNID.fullmatch(part) for folder in folders for part in folder.split("/"))
    flat = all(map(NUMBERED.fullmatch, stems)) and len(stems) == len(set(stems)) and len(folders) == 1 and not in_a_class
    return FLAT if flat else WEBDATASET


def _class_tars(path: Location, notes: list[str]) -> tuple[list[Member], str | None]:
    """Return the class tars in a tar, and the split named by the folder around all of them. Raise DataError if there are several splits, or links."""
    links = Passed()
    outers = [outer for outer in members(path, passed=links) if not is_junk_path(outer.name)]
    if links.notes():
        raise DataError(f"{path}: a class tar may be a link: {links.notes()[0]}; write the files themselves into the archive")
    around, folders = apart([outer.name.split("/")[:-1] for outer in outers])
    called = folder_splits({part for parts in folders for part in parts})
    found = []
    for outer, parts in zip(outers, folders, strict=True):
        file = outer.name.rpartition("/")[2]
        if any(part in called for part in parts) or is_called_a_split(ENDING.sub("", file)):
            raise DataError(f"{path} has the member {shown(outer.name)}, so it contains splits: unpack it into a tar or folder for each split")
        if NOT_A_CLASS.search(file):
            notes.append(f"{path}: the member {shown(outer.name)} is no class tar, and is not read")
        else:
            found.append(outer)
    return found, exact_split(around[-1]) if around else None


def _list_class_tars(path: Location, number: int, outers: list[Member], part: RawListing, passed: Passed) -> None:
    for outer in outers:
        file = outer.name.rpartition("/")[2]
        class_id = ENDING.sub("", file)
        head = read_range(path, outer.offset, min(512, outer.size))
        if not is_tar(head):
            packed = compression(head)
            what = f"it is compressed ({packed})" if packed else begins(head)
            remedy = "expected a tar of uncompressed class tars" if packed else "fetch it again"
            raise DataError(f"{path}: the member {shown(outer.name)} should be a class tar, but {what}; {remedy}")
        if shown(class_id) != class_id:
            raise DataError(f"{path}: the class tar {shown(outer.name)} has a name that is not UTF-8")
        images = [member for member in members(path, outer.offset, outer.size, passed, outer.name) if not is_junk_path(member.name)]
        if not images:
            raise DataError(f"{path}: the class tar {shown(outer.name)} has no image; fetch it again")
        for member, parts in zip(images, apart([member.name.split("/")[:-1] for member in images])[1], strict=True):
            if any(map(exact_split, parts)):
                raise DataError(f"{path}: the class tar {shown(outer.name)} has {shown(member.name)}, as if classes contained splits: unpack it")
            _add(part, class_id, member, number)


def _list_flat(
    path: Location, number: int, reader: RangeReader, found: dict[str, RawListing], class_of: ClassOf, passed: Passed, notes: list[str]
) -> None:
    unknown: Counter[str] = Counter()
    others: list[str] = []
    for member in members(path, passed=passed):
        match = NUMBERED.fullmatch(_stem(member))
        class_id = class_of(_stem(member))
        if is_junk_path(member.name):
            continue
        if match is None:
            others.append(shown(member.name))
        elif class_id is None:
            unknown[match[2]] += 1
        else:
            _add(found.setdefault(match[2], RawListing(match[2], reader)), class_id, member, number)
    if class_of.origin:
        notes.append(f"{path}: the classes are from {class_of.origin}")
    for what, count in unknown.items():
        notes.append(f"{path}: {count} {what} files have no known class and are not read")
    if others:
        notes.append(f"{path}: {len(others)} members are not named like ILSVRC's and are not read ({some(others, 5)})")


def _stem(member: Member) -> str:
    return member.name.rpartition("/")[2].rpartition(".")[0]


def _add(part: RawListing, class_id: str, member: Member, number: int) -> None:
    part.classes.append(class_id)
    part.labels.append(-1)
    part.names.append(clean_name(member.name, class_id))
    part.places.append(Place(os.fsencode(member.name), number, member.offset, member.size))
