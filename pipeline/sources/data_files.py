"""The data files of a source: tars, parquet or TFRecord files by split, and parts that are missing."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import DataError
from ..storage.uri import Location, RemotePath
from .heads import IMAGE
from .kinds import NO_IMAGE, kind_of
from .listing import some
from .looks import look
from .splits import split_of, words
from .tree import Tree, inside, under

DEEPEST = 8  # maximum number of nested wrappers
# Words in the names of archives that hold no images.
ABOUT = frozenset(("bbox", "bboxes", "annotation", "annotations", "labels", "masks", "meta", "metadata", "devkit"))
LOOKED_AT = 32  # subfolders whose content is examined; a folder with more of them holds classes
MOST_PARTS = 1 << 20  # largest number of parts that is believed from a file name


class DataFile(NamedTuple):
    """A tar, parquet or TFRecord file."""

    kind: str
    path: Location
    split: str | None  # None: neither its name nor its folders name one


def missing_parts(files: list[DataFile]) -> Iterator[str]:
    """Yield a note for each incomplete set of files with names like ...-00000-of-00010."""
    sets: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = re.search(r"(.*)-(\d+)-of-(\d+)(\.\w+)?$", str(file.path))
        if match:
            sets.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (begin, count), there in sets.items():
        first = int(count in there)  # some count from 1
        missing = [number for number in range(first, first + min(count, MOST_PARTS)) if number not in there]
        if missing:
            names = some([f"{number:05}" for number in missing], 10)
            yield f"{begin}-*: {len(missing)} of {count} parts are missing ({names}); their images, and classes that only they have, are not read"


def refuse_compressed(paths: list[Location]) -> None:
    """Raise DataError for compressed data files."""
    paths = [path for path in paths if not (ABOUT & set(words(path.name)) or NO_IMAGE.search(path.name.rpartition(".")[0]))]
    if paths:
        raise DataError(f"{paths[0]} is compressed, so its images cannot be read one by one: decompress it first")


def files_in(folder: Location, tree: Tree, below: str, parts: tuple[str, ...]) -> tuple[list[DataFile], list[Location]]:
    """Return the data files and the compressed files directly in a folder. Their splits are named by `parts` and by their own names."""
    files: list[DataFile] = []
    compressed: list[Location] = []
    for name in tree.names(below):
        if IMAGE.search(name) or NO_IMAGE.search(name):
            continue
        path = under(folder, inside(below, name))
        if not isinstance(path, RemotePath) and not path.is_file():
            if path.is_symlink() and not path.exists():
                raise DataError(f"{path} is a broken symbolic link: a part, a split or a class may be missing; repair or delete it")
            continue  # a pipe, a device
        kind = kind_of(path)
        if kind == "compressed":
            compressed.append(path)
        elif kind:
            files.append(DataFile(kind, path, split_of((*parts, name), path)))
    return files, compressed


def files_in_split(folder: Location, tree: Tree, name: str, split: str) -> tuple[list[DataFile], list[Location]]:
    """Return the data files and the compressed files in the folder of a split, at any depth."""
    files: list[DataFile] = []
    compressed: list[Location] = []
    for below in folders_with_files(folder, tree, name, 0):
        parts = below.split("/")[1:]
        more, packed = files_in(folder, tree, below, (split, *parts))
        files, compressed = [*files, *more], [*compressed, *packed]
    return files, compressed


def folders_with_files(folder: Location, tree: Tree, below: str, depth: int) -> Iterator[str]:
    """Yield the folders of a split in which data files may lie.

    Class folders are skipped; they are recognised by looking into a sample of the subfolders.
    """
    yield below
    folders = [f"{below}/{name}" for name in tree.folders(below)]
    step = max(1, len(folders) // LOOKED_AT)
    if depth < DEEPEST and any(look(folder, tree, name).whole for name in folders[::step]):
        for name in folders:
            yield from folders_with_files(folder, tree, name, depth + 1)
