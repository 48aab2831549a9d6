"""Tell what a folder of a source holds, from names and from the first bytes of a few files.

No image is decoded.

In:  a folder.    Out: a Look.
"""

from typing import NamedTuple

from ..errors import DataError
from ..storage.uri import Location, RemotePath
from .heads import IMAGE, is_image
from .kinds import ARCHIVE, NO_IMAGE, head_of, kind_of
from .labels import NUMBERED
from .splits import folder_splits
from .tree import Tree, inside, under

# Folders that are searched for an image; a thousand folders of annotations are not all listed.
MOST_FOLDERS = 200
OPENED = 4  # files of a folder that are opened to see what it holds


class Look(NamedTuple):
    """What a folder holds."""

    bears: bool  # has an image or a data file, at any depth
    loose: bool  # has images directly in it
    folders: bool  # has an image in one of its folders
    whole: bool  # has data files, or folders named like splits: a data set of its own


def look(root: Location, tree: Tree, below: str) -> Look:
    """Return what the folder `below` of `root` holds."""
    loose, data = _has_images(root, tree, below), has_data(root, tree, below)
    folders = tree.folders(below)
    inner = any(_bears(root, tree, f"{below}/{name}") for name in folders[:MOST_FOLDERS])
    splits = folder_splits(folders)
    called_so = len(set(splits.values())) > 1 or len(splits) == len(folders)
    holds_classes = any(
        tree.folders(f"{below}/{name}") or is_flat(tree, f"{below}/{name}") or has_data(root, tree, f"{below}/{name}") for name in splits
    )
    whole = data or (inner and called_so and holds_classes)
    if not whole and len(folders) == 1 and inner and not loose:
        whole = look(root, tree, f"{below}/{folders[0]}").whole  # a wrapper inside a wrapper
    return Look(loose or data or inner, loose, inner, whole)


def _bears(root: Location, tree: Tree, below: str) -> bool:
    """Return whether a folder has an image or a data file, at any depth. Only the first MOST_FOLDERS folders are searched."""
    todo, looked = [below], 0
    while todo and looked < MOST_FOLDERS:
        here = todo.pop()
        looked += 1
        if _has_images(root, tree, here) or has_data(root, tree, here):
            return True
        todo += [f"{here}/{name}" for name in reversed(tree.folders(here))]
    return False


def _has_images(root: Location, tree: Tree, below: str) -> bool:
    """Return whether images lie directly in a folder, by name or by the first bytes of a few."""
    names = tree.names(below)
    return any(map(IMAGE.search, names)) or any(is_image(_head(under(root, inside(below, name)))) for name in _odd(names))


def has_data(root: Location, tree: Tree, below: str) -> bool:
    """Return whether tars, parquet or TFRecord files lie directly in a folder. A few files are opened, those with names of archives first."""
    return any(_claims(under(root, inside(below, name))) for name in _odd(tree.names(below)))


def _odd(names: list[str]) -> list[str]:
    """Return a few files whose names do not tell what they are, names of archives first."""
    found = [name for name in names if not (IMAGE.search(name) or NO_IMAGE.search(name))]
    return sorted(found, key=lambda name: (not ARCHIVE.search(name), name))[:OPENED]


def _head(path: Location) -> bytes:
    return head_of(path) if isinstance(path, RemotePath) or path.is_file() else b""


def _claims(path: Location) -> bool:
    """Return whether a file is a data file, or claims to be one."""
    if not isinstance(path, RemotePath) and not path.is_file():
        return False  # a pipe, a device or a broken symbolic link
    try:
        return kind_of(path) not in (None, "compressed")
    except DataError:
        return True


def is_flat(tree: Tree, below: str) -> bool:
    """Return whether ILSVRC's validation files lie directly in a folder."""
    return any(NUMBERED.fullmatch(name.rpartition(".")[0]) for name in tree.names(below))
