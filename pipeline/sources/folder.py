"""A folder with one folder a class: SRC/train/n01440764/x.JPEG and SRC/val/..., or SRC/n01440764/x.JPEG alone.

A key is the path below SRC, so that SRC/key is the file.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError, UndecodableImage
from .listing import Listing

SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}  # folder -> split
MAX_BYTES = 1 << 28  # of one encoded image; a larger file is not read into memory


class FolderSource:
    """Images in class folders, with or without a folder a split above them."""

    def __init__(self, root: Path) -> None:
        """Look at the folders of `root` (not yet at the images); DataError if there is nothing of this shape."""
        self.root = root
        self._notes: list[str] = []
        if not root.is_dir():
            raise DataError(f"no folder {root}: expected one with train/<class>/<image> and val/<class>/<image>, or <class>/<image>")
        self._folders = self._find_splits()
        self.classes = self._find_classes()

    def listings(self) -> list[Listing]:
        """Return every split found, the images of each sorted by class and name."""
        found = [self._list(split, folder) for split, folder in self._folders.items()]
        if not any(map(len, found)):
            raise DataError(f"no images under {self.root}: expected files in one folder a class, as in {self.root}/train/n01440764/1.JPEG")
        for listing in found:
            empty = sorted(set(range(len(self.classes))) - set(listing.labels.tolist()))
            if empty and len(listing):
                names = ", ".join(self.classes[label] for label in empty[:3])
                self._notes.append(f"{self.root}: {len(empty)} of {len(self.classes)} classes have no image in {listing.split} ({names}, ...)")
        return [listing for listing in found if len(listing)]

    def read(self, key: str) -> bytes:
        """Return the bytes of the file SRC/key; its size and kind are checked before it is opened.

        UndecodableImage for what can never be read; OSError when the disk fails or the source is vanishing, which must stop
        the job instead of emptying it.
        """
        path = self.root / key
        if path.is_symlink() and not path.exists():
            raise UndecodableImage("a link to nowhere")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UndecodableImage("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UndecodableImage(f"{status.st_size} bytes; at most {MAX_BYTES} are read")
        try:
            return path.read_bytes()
        except PermissionError as error:
            raise UndecodableImage("no permission to read the file") from error

    def notes(self) -> list[str]:
        """Return what was passed over: files outside the class folders."""
        return self._notes

    def _find_splits(self) -> dict[str, str]:
        """Return split -> folder below the root ("" is the root itself)."""
        found: dict[str, str] = {}
        for name in _folders(self.root):
            split = SPLITS.get(name.lower())
            if split is None:
                continue
            if split in found:
                raise DataError(f"{self.root} has both {found[split]}/ and {name}/ for the split {split!r}; keep one of them")
            found[split] = name
        others = [name for name in _folders(self.root) if name not in found.values()]
        if not any(_folders(self.root / name) for name in found.values()) and (others or not found):
            return {"train": ""}  # class folders; one of them may well be called "train"
        if others:
            self._notes.append(f"{self.root}: {len(others)} folders beside the splits are not read ({', '.join(others[:3])}, ...)")
        return {split: found[split] for split in ("train", "val", "test") if split in found}

    def _find_classes(self) -> list[str]:
        """Return the class folders of the first split, sorted; the other splits may have no further ones."""
        by_split: dict[str, list[str]] = {}
        for split, folder in list(self._folders.items()):
            directory = self.root / folder
            names = _folders(directory)
            loose = [entry.name for entry in os.scandir(directory) if not entry.name.startswith(".") and not entry.is_dir()]
            if not names and loose and split == "test":
                self._notes.append(f"{directory}: {len(loose)} files without class folders, so without labels: not read")
                del self._folders[split]
                continue
            if not names and loose:
                raise DataError(
                    f"{directory} has {len(loose)} files and no class folders: their labels are unknown. "
                    f"Expected {directory}/<class>/<image>; move each file into the folder of its class"
                )
            if loose:
                self._notes.append(f"{directory}: {len(loose)} files outside the class folders are not read ({_shown(min(loose))}, ...)")
            by_split[split] = names
        classes = next(iter(by_split.values()), [])
        for split, names in by_split.items():
            unknown = sorted(set(names) - set(classes))
            if unknown:
                first = next(iter(by_split))
                raise DataError(f"{self.root}: the {split} split has classes that {first} has not: {', '.join(map(_shown, unknown[:5]))}")
        for name in classes:
            if _shown(name) != name:
                raise DataError(f"{self.root}: the class folder {_shown(name)} has a name that is not UTF-8; rename it")
        return classes

    def _list(self, split: str, folder: str) -> Listing:
        keys: list[str] = []
        labels: list[int] = []
        sizes: list[int] = []
        for label, name in enumerate(self.classes):
            for key, size in sorted(_files(self.root, f"{folder}/{name}" if folder else name)):
                keys.append(key)
                labels.append(label)
                sizes.append(size)
        return Listing(split, keys, np.array(labels, np.int64), np.array(sizes, np.int64))


def _folders(directory: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, below: str) -> Iterator[tuple[str, int]]:
    """Yield (path below root, bytes) of all that is not a folder. Folders inside a class folder are entered, links to folders not."""
    try:
        entries = list(os.scandir(root / below))
    except FileNotFoundError:
        return  # a class without images in this split
    for entry in entries:
        if entry.name.startswith("."):
            continue  # .DS_Store, ._photo.jpg
        key = f"{below}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files(root, key)
        else:
            yield key, _size(entry)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1  # a link to nowhere: read() will say so


def _shown(name: str) -> str:
    """Return `name` with bytes that are not UTF-8 escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
