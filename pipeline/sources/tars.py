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
from .labels import NUMBERED, ClassOf
from .listing import MAX_BYTES, WNID, Found, Place, clean_name, shown, some, split_of
from .reading import RangeReader, Window, read_range

IMAGE = re.compile(r"(jpe?g|png|webp|bmp|gif|tiff?|ppm|img|image)", re.IGNORECASE)
MAX_LABEL, MAX_JSON = 1 << 10, 1 << 20  # bytes


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int  # of its bytes in the outermost file
    size: int


def is_tar(head: bytes) -> bool:
    """Tell a tar by the checksum of its first header."""
    if len(head) < 512 or not head[:1].strip(b"\0"):
        return False
    try:
        return tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape") is not None
    except (tarfile.HeaderError, ValueError):
        return False


def members(path: Location, offset: int = 0, size: int | None = None, odd: Counter[str] | None = None) -> Iterator[Member]:
    """Yield the regular files of a tar that begins at `offset` of `path`; count the others in `odd`.

    DataError if it is damaged or ends without its end marker, which means that something was cut off.
    """
    window = Window(path, offset, size)
    inside = f"{path}" if not offset else f"{path} (the archive at byte {offset})"
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


def list_tars(paths: list[Location], class_of: ClassOf, notes: list[str]) -> tuple[str, list[Found]]:
    """Return (shape, splits) of the tars in `paths`, each recognised by its content."""
    found: dict[str, Found] = {}
    shapes: dict[str, None] = {}
    reader = RangeReader(paths)
    odd: Counter[str] = Counter()
    for number, path in enumerate(paths):
        begin = list(islice(members(path), 2))
        if not begin:
            notes.append(f"{path}: an empty tar")
            continue
        first, stems = begin[0], [member.name.partition(".")[0] for member in begin]
        if is_tar(read_range(path, first.offset, min(512, first.size))):
            shapes["ILSVRC tar of class tars"] = None
            _list_class_tars(path, number, found.setdefault("train", Found("train", reader)), odd)
        elif NUMBERED.fullmatch(_stem(first)) and len(stems) == len(set(stems)):
            shapes["ILSVRC validation tar"] = None
            _list_flat(path, number, reader, found, class_of, odd, notes)
        else:
            shapes["WebDataset"] = None
            split = split_of(path.name)
            _list_webdataset(path, number, found.setdefault(split, Found(split, reader)), odd)
    notes.extend(f"{count} {what} in the tars are not read" for what, count in odd.items())
    return " and ".join(shapes), list(found.values())


def _list_class_tars(path: Location, number: int, part: Found, odd: Counter[str]) -> None:
    for outer in members(path, odd=odd):
        class_id = outer.name.rpartition("/")[2].removesuffix(".tar")
        if not is_tar(read_range(path, outer.offset, min(512, outer.size))):
            odd["members that are no class tar"] += 1
            continue
        if shown(class_id) != class_id:
            raise DataError(f"{path}: the class tar {shown(outer.name)} has a name that is not UTF-8")
        for member in members(path, outer.offset, outer.size, odd):
            _add(part, class_id, member, number)


def _list_flat(
    path: Location, number: int, reader: RangeReader, found: dict[str, Found], class_of: ClassOf, odd: Counter[str], notes: list[str]
) -> None:
    unknown: Counter[str] = Counter()
    for member in members(path, odd=odd):
        match = NUMBERED.fullmatch(_stem(member))
        class_id = class_of(_stem(member))
        if class_id is None or match is None:
            unknown[match[2] if match else "other"] += 1
            continue
        _add(found.setdefault(match[2], Found(match[2], reader)), class_id, member, number)
    if class_of.origin:
        notes.append(f"{path}: the classes are from {class_of.origin}")
    for what, count in unknown.items():
        notes.append(f"{path}: {count} {what} files have no known class and are not read")


def _stem(member: Member) -> str:
    return member.name.rpartition("/")[2].rpartition(".")[0]


def _add(part: Found, class_id: str, member: Member, number: int) -> None:
    part.classes.append(class_id)
    part.names.append(clean_name(member.name, class_id))
    part.places.append(Place(os.fsencode(member.name), number, member.offset, member.size))


def _list_webdataset(path: Location, number: int, part: Found, odd: Counter[str]) -> None:
    """Group members by the name before the first dot: an image, and cls or json beside it."""
    sample: dict[str, Member] = {}
    current = None
    for member in members(path, odd=odd):
        folder, _, file = member.name.rpartition("/")
        key, _, extension = file.partition(".")
        if (folder, key) != current and sample:
            _add_sample(part, path, number, str(current and current[1]), sample)
            sample = {}
        current = (folder, key)
        sample[extension.lower()] = member
    if sample:
        _add_sample(part, path, number, str(current and current[1]), sample)


def _add_sample(part: Found, path: Location, number: int, key: str, sample: dict[str, Member]) -> None:
    image = next((extension for extension in sample if IMAGE.fullmatch(extension)), None)
    if image is None:
        raise DataError(
            f"{path}: the sample {shown(key)} has no image (it has {some(sorted(map(shown, sample)))}); expected WebDataset's jpg beside cls"
        )
    facts = _facts(path, key, sample)
    class_id, label = facts.get("class"), facts.get("label")
    part.classes.append(None if class_id is None else str(class_id))
    part.labels.append(label if isinstance(label, int) else -1)
    name = str(facts.get("filename") or f"{key}.{sample[image].name.rpartition('.')[2]}")
    part.names.append(os.fsencode(name))
    part.places.append(Place(os.fsencode(sample[image].name), number, sample[image].offset, sample[image].size))


def _facts(path: Location, key: str, sample: dict[str, Member]) -> dict[str, object]:
    """Return class, label and filename as far as the sample's cls and json tell."""
    found: dict[str, object] = {}
    for extension, limit in (("json", MAX_JSON), ("cls", MAX_LABEL), ("cls.txt", MAX_LABEL)):
        member = sample.get(extension)
        if member is None:
            continue
        if member.size > min(limit, MAX_BYTES):
            raise DataError(f"{path}: {shown(member.name)} has {member.size} bytes; a label has at most {limit}")
        data = read_range(path, member.offset, member.size)
        try:
            value = json.loads(data) if extension == "json" else data.decode().strip()
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: {shown(member.name)} is no label: {error}") from error
        found |= _from_json(value) if isinstance(value, dict) else _from_text(value)
    if not found.keys() & {"label", "class"}:
        raise DataError(f"{path}: the sample {shown(key)} has no label: expected {shown(key)}.cls with a number, or a label in {shown(key)}.json")
    return found


def _from_text(value: object, *, is_id: bool = True) -> dict[str, object]:
    """Return a label if it is a number, a class if it is an id (a description, where `is_id` is False, is none)."""
    text = str(value)
    if re.fullmatch(r"\d{1,9}", text):
        return {"label": int(text)}
    return {"class": text} if WNID.fullmatch(text) or (is_id and 0 < len(text) <= 200) else {}


def _from_json(value: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in ("label", "cls", "class", "target", "class_id", "wnid", "synset"):
        if name in value and not isinstance(value[name], bool):
            found |= _from_text(value[name], is_id=name in ("wnid", "synset", "class_id"))
    for name in ("filename", "file_name", "path"):
        if isinstance(value.get(name), str):
            found["filename"] = value[name]
    return found
