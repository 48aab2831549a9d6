"""List folders of image files.

Three shapes are known: SRC/train/n01440764/x.JPEG with SRC/val/..., SRC/n01440764/x.JPEG alone, and
validation files without class folders.
"""

import os
from pathlib import Path

from ...errors import DataError
from ..data_files import DEEPEST
from ..heads import IMAGE
from ..kinds import NO_IMAGE
from ..labels import NUMBERED, ClassOf
from ..layout import SourceLayout
from ..listing import Place, RawListing, shown, some
from ..looks import is_flat, look
from ..reading import FileReader
from ..splits import CONTAINERS, FORMATS, ORDER, TEST, exact_split, folder_splits, words
from ..tree import inside, tree_of, under


class Folder:
    """Lists images in class folders, with or without split folders above them."""

    def __init__(self, layout: SourceLayout, class_of: ClassOf) -> None:
        """Open no image yet; `class_of` gives the class of a validation image by its name."""
        self.root, self._class_of = layout.folder, class_of
        self._splits, self._default = layout.splits, layout.default
        self.notes: list[str] = []
        self.classes: list[str] = []  # the class folders of the first split, empty ones too
        self.shape = "folder of class folders"
        self._tree = tree_of(layout.folder)
        self._reader = FileReader(layout.folder)

    def find(self, without: frozenset[str] = frozenset()) -> list[RawListing]:
        """Return every split found, except those in `without`."""
        splits = {split: self._splits[split] for split in ORDER if split in self._splits} or self._alone()
        found = []
        for split, folder in splits.items():
            if split not in without and len((part := self._list(split, folder)).places):
                found.append(part)
        return found

    def has_classes(self, folder: str) -> bool:
        """Return whether one of the first eight folders in a folder holds images."""
        return any(IMAGE.search(file) for name in self._tree.folders(folder)[:8] for file in self._tree.names(f"{folder}/{name}"))

    def _alone(self) -> dict[str, str]:
        """Return {split: ""} for a folder without split folders. ILSVRC's file names tell the split, else the folder's name, else it is train."""
        match = next((found for name in self._tree.names("") if (found := NUMBERED.fullmatch(name.rpartition(".")[0]))), None)
        return {self._default if match is None else match[2]: ""}

    def _list(self, split: str, folder: str) -> RawListing:
        part = RawListing(split, self._reader)
        folder = self._inside(folder)
        names, loose = self._tree.folders(folder), self._tree.names(folder)
        here = f"{self.root}/{folder}".rstrip("/")
        if loose and (not names or is_flat(self._tree, folder)):
            self._list_flat(part, folder, here)
            if names:
                self._pass_over(folder, here, names)
            return part
        around = len(names) == 1 and names[0] not in self.classes and (exact_split(names[0]) or set(words(names[0]) or ("",)) <= CONTAINERS)
        if around and split == TEST:
            self.notes.append(f"{here}/{names[0]}: files without class folders, so without labels: not read")
            return part
        self._check_names(here, names)
        self._check_links(folder, here, loose)
        loose = loose if folder else [name for name in loose if not NO_IMAGE.search(name)]
        if loose:
            self.notes.append(f"{here}: {len(loose)} files outside the class folders are not read ({some([shown(name) for name in loose])})")
        inner: dict[str, set[str]] = {}
        for name in names:
            if shown(name) != name:
                raise DataError(f"{self.root}: the class folder {shown(name)} has a name that is not UTF-8; rename it")
            found = self._list_class(part, name, inside(folder, name))
            if found is None:
                self.notes.append(f"{here}/{name} has files, but none that may be an image: it is not a class")
            else:
                inner[name] = found
        self._check_inner(here, inner)
        self.classes = self.classes or list(inner)
        return part

    def _pass_over(self, folder: str, here: str, names: list[str]) -> None:
        """Note the folders beside flat files; DataError if they hold images."""
        tops = [inside(folder, name) for name in names]
        if any(look(self.root, self._tree, top).bears for top in tops):
            raise DataError(f"{here} has ILSVRC's validation files and folders with images ({some(names)}) beside each other: keep one of them")
        self.notes.append(f"{here}: {len(names)} folders beside the files are not read ({some(names)})")

    def _check_names(self, here: str, names: list[str]) -> None:
        """Raise DataError for a folder whose name says that it holds images, so it is no class.

        Examples are images/ beside labels/, and JPEGImages/.
        """
        for name in names:
            if words(name) and set(words(name)) <= FORMATS:
                beside = [other for other in names if other != name]
                what = f"images, beside {some(beside)}," if beside else "images"
                raise DataError(self._unknown_labels(f"{here}/{name}", what))

    def _check_links(self, folder: str, here: str, loose: list[str]) -> None:
        """Raise DataError for a broken link that may be a class: without it, labels change."""
        for name in loose:
            path = under(self.root, inside(folder, name))
            if isinstance(path, Path) and path.is_symlink() and not path.exists() and not IMAGE.search(name):
                raise DataError(f"{here}/{shown(name)} is a broken symbolic link: a class may be missing; repair or delete it")

    def _list_class(self, part: RawListing, name: str, below: str) -> set[str] | None:
        """List the files of a class; return the subfolders that hold files ("": the class folder). Return None if no file may be an image."""
        inner = set()
        files = list(self._tree.files(below, deep=True))
        if files and all(NO_IMAGE.search(file) for file, _ in files):
            return None
        for file, size in files:
            inner.add(file.rpartition("/")[0])
            part.classes.append(name)
            part.names.append(os.fsencode(file))
            part.places.append(Place(os.fsencode(f"{below}/{file}"), -1, -1, size))
        return inner

    def _inside(self, folder: str) -> str:
        """Return the folder of a split's classes.

        It is the split's own folder, or a single folder in it that holds all classes and no image,
        as in train/images/<class>/.
        """
        for _ in range(DEEPEST):
            names = self._tree.folders(folder)
            if len(names) != 1 or names[0] in self.classes or any(not NO_IMAGE.search(name) for name in self._tree.names(folder)):
                return folder
            below = inside(folder, names[0])
            holds_images = any(not NO_IMAGE.search(name) for name in self._tree.names(below))
            if not is_flat(self._tree, below) and (holds_images or not self._tree.folders(below)):
                return folder
            self.notes.append(f"{self.root}: the classes of {folder or 'it'} are in {below}")
            folder = below
        raise DataError(f"{self.root}/{folder}: {DEEPEST} nested folders above any class, or a link in a circle")

    def _check_inner(self, here: str, inner: dict[str, set[str]]) -> None:
        """Raise DataError for folders that are no classes: they hold splits, or the classes."""
        for name, folders in inner.items():
            below = {folder.partition("/")[0] for folder in folders}
            splits = folder_splits(below)
            if len(set(splits.values())) > 1 or (splits and set(splits) == below):
                raise DataError(
                    f"{here}/{name} would be a class, but it holds folders called {some(sorted(splits))}, as splits are. "
                    f"Expected the splits above the classes: {here}/train/{name}/<image>"
                )
        used = {name: below for name, below in inner.items() if below}
        if not used or any("" in below for below in used.values()) or all(len(below) == 1 and "/" not in min(below) for below in used.values()):
            return  # n01440764/images/1.JPEG, as in Tiny ImageNet, is a class
        tops, deeper = some(list(used), 5), some(sorted(set().union(*used.values())), 5)
        said = f"{here} has the folders {tops}, and the images lie deeper in them ({deeper})"
        if self._splits:
            self.notes.append(f"{said}: the classes are {tops}")
            return
        raise DataError(
            f"{said}. If {tops} are splits, call them train, val and test; if they are data sets, give --src one of them; "
            "if they are the classes, put them into a folder called train"
        )

    def _list_flat(self, part: RawListing, folder: str, here: str) -> None:
        """List validation files without class folders; their names determine their classes."""
        self.shape = "folder of class folders, with flat validation files" if folder else "flat validation files"
        unknown = []
        for file, size in self._tree.files(folder, deep=False):
            class_id = self._class_of(file.rpartition(".")[0])
            if class_id is None:
                unknown += [] if NO_IMAGE.search(file) else [file]
                continue
            part.classes.append(class_id)
            part.names.append(os.fsencode(file))
            part.places.append(Place(os.fsencode(inside(folder, file)), -1, -1, size))
        if part.places:
            self.notes.append(f"{here}: the classes of {len(part.places)} files are from {self._class_of.origin}")
            if unknown:
                self.notes.append(f"{here}: {len(unknown)} files have no known class and are not read ({some(sorted(map(shown, unknown)))})")
        elif part.split == TEST:
            self.notes.append(f"{here}: {len(unknown)} files without class folders, so without labels: not read")
        else:
            raise DataError(self._unknown_labels(here, f"{len(unknown)} files"))

    def _unknown_labels(self, here: str, what: str) -> str:
        return (
            f"{here} has {what} and no class folders: their labels are unknown. "
            f"Expected {here}/<class>/<image>, or ILSVRC validation files (ILSVRC2012_val_00000001.JPEG)"
        )
