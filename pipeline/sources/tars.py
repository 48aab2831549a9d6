"""Tar archives, read where they lie: ILSVRC's tar of class tars, its flat validation tar, and WebDataset shards.

Only headers are read to list them; a read is one range of the file. Member names decide nothing but keys, so that `..`, links
and absolute names lead nowhere.
"""

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from ..errors import DataError
from ..remote import Location
from .classes import Unlabelled, from_zero, label_of
from .heads import IMAGE, begins, compression, is_tar
from .labels import NUMBERED, ClassOf
from .listing import MAX_BYTES, WNID, Found, Place, clean_name, shown, some
from .reading import RangeReader, Window, read_range
from .splits import folder_splits, is_junk_path, settled, split_of

MAX_LABEL, MAX_JSON = 1 << 10, 1 << 20  # bytes
NUMBERS, IDS = ("label", "cls", "class", "target"), ("class_id", "wnid", "synset")  # of a json; a text in NUMBERS may be a description
FILENAMES = ("filename", "file_name", "path")
LOOKED_AT = 16  # members that tell what a tar is
CLASS_TARS, FLAT, WEBDATASET = "ILSVRC tar of class tars", "ILSVRC validation tar", "WebDataset"
NOT_A_CLASS = re.compile(r"(?i)(^readme[^.]*|\.(txt|md|json|csv|xml|ya?ml|html?|pdf|mat|py|sh))$")


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int  # of its bytes in the outermost file
    size: int


def members(path: Location, offset: int = 0, size: int | None = None, odd: Counter[str] | None = None, inner: str = "") -> Iterator[Member]:
    """Yield the regular files of a tar that begins at `offset` of `path`, as its member `inner`; count the others in `odd`.

    DataError if it is damaged or ends without its end marker, which means that something was cut off.
    """
    window = Window(path, offset, size)
    inside = f"{path}: the class tar {shown(inner)}" if inner else f"{path}"
    try:
        with tarfile.open(fileobj=window, mode="r:") as archive:  # type: ignore[call-overload]  # Window is as much of a file as it needs
            while (member := archive.next()) is not None:
                archive.members.clear()  # else it remembers them all
                if member.size < 0 or member.offset_data + member.size > window.size:
                    raise DataError(f"{inside} is cut off in {shown(member.name)}; fetch it again")
                if member.isreg() and not member.issparse():
                    yield Member(member.name, offset + member.offset_data, member.size)
                elif not member.isdir() and odd is not None:
                    odd["links, devices and the like"] += 1
            end = archive.offset
        window.seek(end)
        if any(window.read(512)) or end >= window.size:
            raise DataError(f"{inside} has no end marker after byte {end}: it is cut off or damaged; fetch it again")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{inside} cannot be read as a tar: {error}; fetch it again") from error
    finally:
        window.close()


def list_tars(
    files: list[tuple[Location, str | None]], default: str, first_label: int | None, class_of: ClassOf, notes: list[str]
) -> tuple[str, list[Found]]:
    """Return (shape, splits) of tars, each recognised by some of its members; `files` are (path, the split its path names).

    DataError for a part that cannot be read: the classes that are in it would be missing, and the labels after them others.
    """
    found: dict[str, Found] = {}
    paths = [path for path, _ in files]
    reader = RangeReader(paths)
    odd: Counter[str] = Counter()
    shapes = [_shape(path) for path in paths]
    samples = [number for number, shape in enumerate(shapes) if shape == WEBDATASET]
    named = dict(zip(samples, settled([files[number] for number in samples], default), strict=True))
    for number, (path, split) in enumerate(files):
        if shapes[number] == CLASS_TARS:
            part = split or default
            _list_class_tars(path, number, found.setdefault(part, Found(part, reader)), odd, notes)
        elif shapes[number] == FLAT:
            _list_flat(path, number, reader, found, class_of, odd, notes)
        else:
            tar = _Tar(path, number, named[number], split is not None, first_label or 0)
            _list_webdataset(tar, reader, found, odd, notes)
    notes.extend(f"{count} {what} in the tars are not read" for what, count in odd.items())
    return " and ".join(dict.fromkeys(shapes)), list(found.values())


def _shape(path: Location) -> str:
    """Return which kind of tar it is, by its first members: one alone may be damaged."""
    begin = list(islice((member for member in members(path) if not is_junk_path(member.name)), LOOKED_AT))
    if not begin:
        raise DataError(f"{path} is an empty tar; fetch it again, or move it out of the source")
    inner = [member for member in begin if is_tar(read_range(path, member.offset, min(512, member.size)))]
    if inner or all(member.name.endswith(".tar") for member in begin):
        return CLASS_TARS
    stems = [_stem(member) for member in begin]
    return FLAT if all(map(NUMBERED.fullmatch, stems)) and len(stems) == len(set(stems)) else WEBDATASET


def _list_class_tars(path: Location, number: int, part: Found, odd: Counter[str], notes: list[str]) -> None:
    for outer in members(path, odd=odd):
        if is_junk_path(outer.name):
            continue
        file = outer.name.rpartition("/")[2]
        if NOT_A_CLASS.search(file):
            notes.append(f"{path}: the member {shown(outer.name)} is no class tar, and is not read")
            continue
        class_id = file.removesuffix(".tar")
        head = read_range(path, outer.offset, min(512, outer.size))
        if not is_tar(head):
            packed = compression(head)
            what = f"it is compressed ({packed})" if packed else begins(head)
            remedy = "a tar of plain class tars is expected" if packed else "fetch it again"
            raise DataError(f"{path}: the member {shown(outer.name)} should be a class tar, and {what}; {remedy}")
        if shown(class_id) != class_id:
            raise DataError(f"{path}: the class tar {shown(outer.name)} has a name that is not UTF-8")
        before = len(part.places)
        for member in members(path, outer.offset, outer.size, odd, outer.name):
            if not is_junk_path(member.name):
                _add(part, class_id, member, number)
        if len(part.places) == before:
            raise DataError(f"{path}: the class tar {shown(outer.name)} has no image; fetch it again")


def _list_flat(
    path: Location, number: int, reader: RangeReader, found: dict[str, Found], class_of: ClassOf, odd: Counter[str], notes: list[str]
) -> None:
    unknown: Counter[str] = Counter()
    others: list[str] = []
    for member in members(path, odd=odd):
        match = NUMBERED.fullmatch(_stem(member))
        class_id = class_of(_stem(member))
        if is_junk_path(member.name):
            continue
        if match is None:
            others.append(shown(member.name))
        elif class_id is None:
            unknown[match[2]] += 1
        else:
            _add(found.setdefault(match[2], Found(match[2], reader)), class_id, member, number)
    if class_of.origin:
        notes.append(f"{path}: the classes are from {class_of.origin}")
    for what, count in unknown.items():
        notes.append(f"{path}: {count} {what} files have no known class and are not read")
    if others:
        notes.append(f"{path}: {len(others)} members are not called as ILSVRC's are, and are not read ({some(others, 5)})")


def _stem(member: Member) -> str:
    return member.name.rpartition("/")[2].rpartition(".")[0]


def _add(part: Found, class_id: str, member: Member, number: int) -> None:
    part.classes.append(class_id)
    part.names.append(clean_name(member.name, class_id))
    part.places.append(Place(os.fsencode(member.name), number, member.offset, member.size))


class _Tar(NamedTuple):
    """A tar of samples."""

    path: Location
    number: int  # among the reader's files
    split: str
    is_named: bool  # whether its path names the split
    first_label: int


def _list_webdataset(tar: _Tar, reader: RangeReader, found: dict[str, Found], odd: Counter[str], notes: list[str]) -> None:
    """Group members by the name before the first dot: an image, and cls or json beside it.

    Where the tar's own path names no split, the folders in it may (train/0001.jpg, val_images/0002.jpg).
    """
    unlabelled = 0
    by_folder: dict[str, Found] = {}
    for folder, key, sample in _samples(tar.path, odd):
        part = by_folder.setdefault(folder, Found("", reader, may_repeat=True))
        unlabelled += not _add_sample(part, tar, f"{folder}/{key}".lstrip("/"), sample, odd)
    inside = _splits_inside(tar, list(by_folder))
    for folder, part in by_folder.items():
        split = inside.get(folder, tar.split)
        found.setdefault(split, Found(split, reader, may_repeat=True)).extend(part)
    if unlabelled:
        notes.append(f"{tar.path}: {unlabelled} images without a label (as in a test set) are not read")


def _splits_inside(tar: _Tar, folders: list[str]) -> dict[str, str]:
    """Return folder -> split of those in a tar that name one; DataError if only some do, or another one than the tar's own path."""
    called = folder_splits({part for folder in folders for part in folder.split("/")})
    inside = {}
    for folder in folders:
        split = split_of([part for part in folder.split("/") if part in called], f"{tar.path}: {shown(folder)}")
        if split:
            inside[folder] = split
    if tar.is_named and set(inside.values()) - {tar.split}:
        folder = next(folder for folder, split in inside.items() if split != tar.split)
        raise DataError(f"{tar.path} is of the split {tar.split} by its name, and has the folder {shown(folder)} in it: rename one of them")
    unnamed = [shown(folder) or "its top" for folder in folders if folder not in inside]
    if inside and unnamed and not tar.is_named:
        raise DataError(
            f"{tar.path} has folders that name splits ({some(sorted(inside))}), and samples in others ({some(unnamed)}): which are they of?"
        )
    return inside


def _samples(path: Location, odd: Counter[str]) -> Iterator[tuple[str, str, dict[str, Member]]]:
    """Yield (folder, key, extension -> member) of each sample."""
    sample: dict[str, Member] = {}
    current = ("", "")
    for member in members(path, odd=odd):
        if is_junk_path(member.name):
            continue
        folder, _, file = member.name.rpartition("/")
        key, _, extension = file.partition(".")
        if (folder, key) != current and sample:
            yield *current, sample
            sample = {}
        current = (folder, key)
        if extension.lower() in sample:
            raise DataError(f"{path} has the member {shown(member.name)} twice; write each sample once")
        sample[extension.lower()] = member
    if sample:
        yield *current, sample


def _add_sample(part: Found, tar: _Tar, key: str, sample: dict[str, Member], odd: Counter[str]) -> bool:
    """Add a sample; tell whether it has a label."""
    images = [extension for extension in sample if IMAGE.search(f".{extension}") or extension in ("img", "image")]
    if not images:
        raise DataError(
            f"{tar.path}: the sample {shown(key)} has no image (it has {some(sorted(map(shown, sample)))}); expected WebDataset's jpg beside cls"
        )
    if len(images) > 1:
        odd["further images of samples"] += len(images) - 1
    member = sample[images[0]]
    facts = _facts(tar.path, key, sample)
    if facts.class_id is None and facts.number is None:
        return False
    part.classes.append(facts.class_id)
    part.labels.append(-1 if facts.number is None else from_zero(facts.number, tar.first_label, f"{tar.path}: the sample {shown(key)}"))
    part.names.append(os.fsencode(facts.filename or f"{key.rpartition('/')[2]}.{member.name.rpartition('.')[2]}"))
    part.places.append(Place(os.fsencode(member.name), tar.number, member.offset, member.size))
    return True


class _Facts(NamedTuple):
    """What a sample's cls and json say."""

    class_id: str | None
    number: int | None
    filename: str  # "": none


def _facts(path: Location, key: str, sample: dict[str, Member]) -> _Facts:
    """Return what is said of a sample; DataError if nothing is, or two things."""
    said: list[tuple[str, int | str | Unlabelled]] = []
    wrong: list[str] = []
    filename = ""
    for extension, limit in (("json", MAX_JSON), ("cls", MAX_LABEL), ("cls.txt", MAX_LABEL)):
        member = sample.get(extension)
        if member is None:
            continue
        if member.size > min(limit, MAX_BYTES):
            raise DataError(f"{path}: {shown(member.name)} has {member.size} bytes; a label has at most {limit}")
        data = read_range(path, member.offset, member.size)
        try:
            value = json.loads(data) if extension == "json" else data.decode()
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: {shown(member.name)} is no label: {error}") from error
        facts = {f"json {name}": value[name] for name in (*NUMBERS, *IDS) if name in value} if isinstance(value, dict) else {extension: value}
        for where, fact in facts.items():
            try:
                is_id = where.removeprefix("json ") in IDS and isinstance(fact, str) and fact
                said.append((where, fact if is_id else label_of(fact)))
            except ValueError as error:
                wrong.append(f"{shown(member.name)} is no label: {error}")
        if isinstance(value, dict):
            filename = next((value[name] for name in FILENAMES if isinstance(value.get(name), str)), "")
    if wrong and not said:
        raise DataError(f"{path}: {wrong[0]}")
    if not said:
        raise DataError(f"{path}: the sample {shown(key)} has no label: expected {shown(key)}.cls with a number, or a label in {shown(key)}.json")
    numbers = {value: where for where, value in said if isinstance(value, int)}
    texts = {value: where for where, value in said if isinstance(value, str)}
    ids = {value: where for value, where in texts.items() if WNID.fullmatch(value) or where.removeprefix("json ") in IDS}
    classes = ids if ids or numbers else texts  # beside an id or a number, a text is a description
    for found in (numbers, classes):
        if len(found) > 1:
            told = ", ".join(f"{where}: {value}" for value, where in found.items())
            raise DataError(f"{path}: the sample {shown(key)} has several labels ({shown(told)}); keep one of them")
    return _Facts(next(iter(classes), None), next(iter(numbers), None), filename)
