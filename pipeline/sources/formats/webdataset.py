"""List WebDataset tars: members of one name are a sample, an image with a cls or json label."""

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from ...errors import DataError
from ...storage.uri import Location
from ..classes import Unlabelled, from_zero, label_of
from ..heads import IMAGE
from ..listing import WNID, Place, RawListing, shown, some, unread
from ..reading import RangeReader, read_range
from ..splits import apart, folder_splits, is_junk_path, split_of
from .archives import Member, Passed, members

MAX_LABEL, MAX_JSON = 1 << 10, 1 << 20  # largest members, in bytes
# Label fields of a json; a text in one of NUMBERS may be a description.
NUMBERS, IDS = ("label", "cls", "class", "target"), ("class_id", "wnid", "synset")
FILENAMES = ("filename", "file_name", "path")


class Tar(NamedTuple):
    """A tar of samples."""

    path: Location
    number: int  # index in the reader's files
    split: str
    is_named: bool  # whether its path names the split
    first_label: int


def list_webdataset(tar: Tar, reader: RangeReader, found: dict[str, RawListing], passed: Passed, notes: list[str]) -> None:
    """Group members by the name before the first dot: an image, and a cls or json beside it.

    If the tar's own path names no split, the folders in it may (train/0001.jpg, val_images/0002.jpg).
    """
    unlabelled = 0
    by_folder: dict[str, RawListing] = {}
    for folder, key, sample in _samples(tar.path, passed):
        part = by_folder.setdefault(folder, RawListing("", reader, may_repeat=True))
        unlabelled += not _add_sample(part, tar, f"{folder}/{key}".lstrip("/"), sample, passed)
    inside = _splits_inside(tar, list(by_folder))
    for folder, part in by_folder.items():
        split = inside.get(folder, tar.split)
        found.setdefault(split, RawListing(split, reader, may_repeat=True)).extend(part)
    notes += unread(tar.path, unlabelled)


def _splits_inside(tar: Tar, folders: list[str]) -> dict[str, str]:
    """Return {folder: split} for the folders in a tar that name a split.

    Raise DataError if only some do, or if one names another split than the tar's own path.
    """
    around, below = apart([folder.split("/") for folder in folders])
    called = folder_splits({*around[-1:], *(part for parts in below for part in parts)})
    inside = {}
    for folder, parts in zip(folders, below, strict=True):
        split = split_of([part for part in (*around[-1:], *parts) if part in called], f"{tar.path}: {shown(folder)}")
        if split:
            inside[folder] = split
    if tar.is_named and set(inside.values()) - {tar.split}:
        folder = next(folder for folder, split in inside.items() if split != tar.split)
        raise DataError(f"{tar.path} belongs to the split {tar.split} by its name, but has the folder {shown(folder)} in it: rename one of them")
    unnamed = [shown(folder) or "its top" for folder in folders if folder not in inside]
    if inside and unnamed and not tar.is_named:
        raise DataError(
            f"{tar.path} has folders that name splits ({some(sorted(inside))}), and samples in others ({some(unnamed)}): "
            "rename those after their splits"
        )
    return inside


def _samples(path: Location, passed: Passed) -> Iterator[tuple[str, str, dict[str, Member]]]:
    """Yield (folder, key, {extension: member}) of each sample."""
    sample: dict[str, Member] = {}
    current = ("", "")
    for member in members(path, passed=passed):
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


def _add_sample(part: RawListing, tar: Tar, key: str, sample: dict[str, Member], passed: Passed) -> bool:
    """Add a sample to `part`; return whether it has a label."""
    images = [extension for extension in sample if IMAGE.fullmatch(f".{extension}") or extension in ("img", "image")]
    # Such as left.jpg, if there is no jpg.
    images = images or [extension for extension in sample if IMAGE.search(f".{extension}")]
    if not images:
        raise DataError(
            f"{tar.path}: the sample {shown(key)} has no image (it has {some(sorted(map(shown, sample)))}); expected WebDataset's jpg beside cls"
        )
    for extension in images[1:]:
        passed.add("further images of samples", sample[extension].name)
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
    """Return the label and file name of a sample; DataError if it has no label, or several."""
    said: list[tuple[str, int | str | Unlabelled]] = []
    wrong: list[str] = []
    filename = ""
    for extension, limit in (("json", MAX_JSON), ("cls", MAX_LABEL), ("cls.txt", MAX_LABEL)):
        member = sample.get(extension)
        if member is None:
            continue
        if member.size > limit:
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
            filename = shown(next((value[name] for name in FILENAMES if isinstance(value.get(name), str)), ""))
    if wrong and not said:
        raise DataError(f"{path}: {wrong[0]}")
    if not said:
        hint = "; if its folders are classes, unpack the archive" if "/" in key else ""
        hint = "; unpack a single class tar into a folder named after its class" if WNID.match(key.rpartition("/")[2]) else hint
        raise DataError(
            f"{path}: the sample {shown(key)} has no label: expected {shown(key)}.cls with a number, or a label in {shown(key)}.json, "
            f"right before or after its image{hint}"
        )
    numbers = {value: where for where, value in said if isinstance(value, int)}
    texts = {value: where for where, value in said if isinstance(value, str)}
    ids = {value: where for value, where in texts.items() if WNID.fullmatch(value) or where.removeprefix("json ") in IDS}
    classes = ids if ids or numbers else texts  # beside an id or a number, a text is a description
    for found in (numbers, classes):
        if len(found) > 1:
            told = ", ".join(f"{where}: {value}" for value, where in found.items())
            raise DataError(f"{path}: the sample {shown(key)} has several labels ({shown(told)}); keep one of them")
    return _Facts(next(iter(classes), None), next(iter(numbers), None), filename)
