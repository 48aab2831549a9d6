"""Folders of files: SRC/train/n01440764/x.JPEG and SRC/val/..., SRC/n01440764/x.JPEG alone, or validation files without class folders.

Kaggle's ILSVRC/Data/CLS-LOC is such a folder, with the labels of val/ in LOC_val_solution.csv.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from ..remote import Location, RemotePath
from .labels import NUMBERED, ClassOf
from .listing import SPLITS, TEST_SPLIT, Found, Place, shown, some
from .reading import FileReader

KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


class Folder:
    """Images in class folders, with or without a folder a split above them."""

    def __init__(self, root: Location, class_of: ClassOf) -> None:
        """Look at the folders of `root` (not yet at the images); `class_of` knows validation images by name."""
        self.root, self._class_of = root, class_of
        self.notes: list[str] = []
        self.classes: list[str] = []  # every class folder, empty ones too
        self.shape = "folder of class folders"
        self._tree = _RemoteTree(root) if isinstance(root, RemotePath) else _Tree(root)
        self._reader = FileReader(root)

    def find(self) -> list[Found]:
        """Return every split found."""
        splits = self._splits()
        self._splits_seen = any(splits.values())
        found = [part for split, folder in splits.items() if len((part := self._list(split, folder)).places)]
        self._check_classes(found)
        return found

    def _splits(self) -> dict[str, str]:
        """Return split -> folder below the root ("" is the root itself)."""
        found: dict[str, str] = {}
        folders = self._tree.folders("")
        for name in folders:
            split = SPLITS.get(name.lower())
            if split is None:
                continue
            if split in found:
                raise DataError(f"{self.root} has both {found[split]}/ and {name}/ for the split {split!r}; keep one of them")
            found[split] = name
        others = [name for name in folders if name not in found.values()]
        inside = any(self._tree.folders(name) or self._flat(name) for name in found.values())
        if not inside and not (found and not others):
            match = NUMBERED.fullmatch(min((name for name, _ in self._tree.files("", deep=False)), default="").rpartition(".")[0])
            return {match[2]: ""} if match and not others and not found else {"train": ""}  # a class may well be called "train"
        if others:
            self.notes.append(f"{self.root}: {len(others)} folders beside the splits are not read ({some(others)})")
        return {split: found[split] for split in ("train", "val", TEST_SPLIT) if split in found}

    def _flat(self, folder: str) -> bool:
        return any(NUMBERED.fullmatch(name.rpartition(".")[0]) for name, _ in self._tree.files(folder, deep=False))

    def _list(self, split: str, folder: str) -> Found:
        part = Found(split, self._reader)
        names = self._tree.folders(folder)
        loose = sorted(name for name, _ in self._tree.files(folder, deep=False))
        shown_folder = f"{self.root}/{folder}".rstrip("/")
        if not names and loose:
            self._list_flat(part, folder, shown_folder)
            return part
        if loose and folder:
            self.notes.append(f"{shown_folder}: {len(loose)} files outside the class folders are not read ({some([shown(name) for name in loose])})")
        for name in names:
            if shown(name) != name:
                raise DataError(f"{self.root}: the class folder {shown(name)} has a name that is not UTF-8; rename it")
            below = f"{folder}/{name}" if folder else name
            for file, size in self._tree.files(below, deep=True):
                path = os.fsencode(f"{below}/{file}")
                part.classes.append(name)
                part.names.append(os.fsencode(file))
                part.places.append(Place(path, -1, -1, size))
        return part

    def _list_flat(self, part: Found, folder: str, shown_folder: str) -> None:
        """List validation files without class folders; their names tell the class."""
        self.shape = "folder of class folders, with flat validation files" if folder else "flat validation files"
        unknown = []
        for file, size in self._tree.files(folder, deep=False):
            class_id = self._class_of(file.rpartition(".")[0])
            if class_id is None:
                unknown.append(file)
                continue
            part.classes.append(class_id)
            part.names.append(os.fsencode(file))
            part.places.append(Place(os.fsencode(f"{folder}/{file}" if folder else file), -1, -1, size))
        if part.places:
            self.notes.append(f"{shown_folder}: the classes of {len(part.places)} files are from {self._class_of.origin}")
            if unknown:
                self.notes.append(f"{shown_folder}: {len(unknown)} files have no known class and are not read ({some(sorted(map(shown, unknown)))})")
        elif part.split == TEST_SPLIT:
            self.notes.append(f"{shown_folder}: {len(unknown)} files without class folders, so without labels: not read")
        else:
            raise DataError(
                f"{shown_folder} has {len(unknown)} files and no class folders: their labels are unknown. "
                f"Expected {shown_folder}/<class>/<image>, or ILSVRC validation files (ILSVRC2012_val_00000001.JPEG)"
            )

    def _check_classes(self, found: list[Found]) -> None:
        if not found:
            raise DataError(f"no images under {self.root}: expected files in one folder a class, as in {self.root}/train/n01440764/1.JPEG")
        first = found[0].split
        folder = next((name for name in self._tree.folders("") if SPLITS.get(name.lower()) == first), "")
        classes = {str(name) for name in found[0].classes} | set(self._tree.folders(folder) if folder or not self._splits_seen else ())
        self.classes = sorted(classes)
        for part in found:
            unknown = sorted({str(name) for name in part.classes} - classes)
            if unknown:
                raise DataError(f"{self.root}: the {part.split} split has classes that {first} has not: {some([shown(name) for name in unknown], 5)}")
            empty = sorted(classes - {str(name) for name in part.classes})
            if empty:
                self.notes.append(f"{self.root}: {len(empty)} of {len(classes)} classes have no image in {part.split} ({some(empty)})")


class _Tree:
    """A local folder: what is in it, names that begin with a dot passed over, links to folders not entered below a class."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folders(self, below: str) -> list[str]:
        """Return the folders in `below`, sorted."""
        try:
            entries = list(os.scandir(self._root / below))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))

    def files(self, below: str, *, deep: bool) -> Iterator[tuple[str, int]]:
        """Yield (path below `below`, bytes) of all that is not a folder; `deep`: of the folders inside it too."""
        try:
            entries = list(os.scandir(self._root / below))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue  # .DS_Store, ._photo.jpg
            if entry.is_dir(follow_symlinks=not deep):
                if deep:
                    for name, size in self.files(f"{below}/{entry.name}", deep=True):
                        yield f"{entry.name}/{name}", size
            else:
                yield entry.name, _size(entry)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1  # a link to nowhere: reading it will say so


class _RemoteTree:
    """The same of a remote folder, from one listing."""

    def __init__(self, root: RemotePath) -> None:
        self._files: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._folders: dict[str, set[str]] = defaultdict(set)
        for info in root.entries(recursive=True):
            if not info.is_file:
                continue
            *folders, name = root.relative(info.path).split("/")
            if any(part.startswith(".") for part in (*folders, name)) or not name:
                continue
            for depth, folder in enumerate(folders):
                self._folders["/".join(folders[:depth])].add(folder)
            self._files["/".join(folders)].append((name, info.size))

    def folders(self, below: str) -> list[str]:
        return sorted(self._folders.get(below, ()))

    def files(self, below: str, *, deep: bool) -> Iterator[tuple[str, int]]:
        yield from self._files.get(below, ())
        if deep:
            for folder in self.folders(below):
                for name, size in self.files(f"{below}/{folder}", deep=True):
                    yield f"{folder}/{name}", size
