"""List the folders and files of a source, local or remote, without those of `splits.is_junk`."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..errors import DataError
from ..storage.uri import Location, RemotePath
from .splits import is_junk


@runtime_checkable
class Tree(Protocol):
    """The content of one folder; `below` is a path in it, "" is the folder itself."""

    def folders(self, below: str) -> list[str]:
        """Return the names of the folders in `below`, sorted."""

    def names(self, below: str) -> list[str]:
        """Return the names of everything that is not a folder, sorted; no sizes are looked up."""

    def files(self, below: str, *, deep: bool) -> Iterator[tuple[str, int]]:
        """Yield (path below `below`, bytes) of everything that is not a folder.

        Bytes are -1 if unknown. `deep`: include the content of all folders below.
        """


def tree_of(root: Location) -> Tree:
    """Return the tree of a folder. Nothing is listed yet."""
    return _RemoteTree(root) if isinstance(root, RemotePath) else _LocalTree(root)


def inside(below: str, name: str) -> str:
    """Return the path of `name` in the folder `below`, which may be the tree's own ("")."""
    return f"{below}/{name}" if below else name


def under(root: Location, below: str) -> Location:
    """Return the file or folder `below` the folder `root`."""
    for part in below.split("/") if below else ():
        root = root / part
    return root


class _LocalTree:
    """A local folder. Links to folders are followed above the classes, not below them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # The last listing: callers ask the same folder for its folders and its names in turn.
        self._last: tuple[str | None, list[os.DirEntry[str]]] = (None, [])

    def folders(self, below: str) -> list[str]:
        return sorted(entry.name for entry in self._entries(below) if not is_junk(entry.name) and _is_folder(entry, follow=True))

    def names(self, below: str) -> list[str]:
        return sorted(entry.name for entry in self._entries(below) if not is_junk(entry.name) and not _is_folder(entry, follow=True))

    def files(self, below: str, *, deep: bool) -> Iterator[tuple[str, int]]:
        for entry in self._entries(below):
            if is_junk(entry.name):
                continue
            if _is_folder(entry, follow=not deep):
                if deep:
                    for name, size in self.files(f"{below}/{entry.name}", deep=True):
                        yield f"{entry.name}/{name}", size
            else:
                yield entry.name, _size(entry)

    def _entries(self, below: str) -> list[os.DirEntry[str]]:
        if self._last[0] == below:
            return self._last[1]
        try:
            entries = list(os.scandir(self._root / below))
        except (FileNotFoundError, NotADirectoryError):
            entries = []
        except PermissionError as error:
            raise DataError(f"{self._root / below}: no permission to list this folder; allow it, or move it out of the source") from error
        self._last = (below, entries)
        return entries


def _is_folder(entry: os.DirEntry[str], *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False  # a circle of symbolic links


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1  # a broken symbolic link: reading it raises the error


class _RemoteTree:
    """A folder of a remote store.

    Listing takes one request per folder; a deep listing takes one request for everything below.
    """

    def __init__(self, root: RemotePath) -> None:
        self._root = root
        self._folders: dict[str, set[str]] = defaultdict(set)
        self._files: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._listed: set[str] = set()  # folders whose own entries are known
        self._gathered: set[str] = set()  # folders below which everything is known

    def folders(self, below: str) -> list[str]:
        self._list(below)
        return sorted(self._folders[below])

    def names(self, below: str) -> list[str]:
        self._list(below)
        return sorted(name for name, _ in self._files[below])

    def files(self, below: str, *, deep: bool) -> Iterator[tuple[str, int]]:
        self._gather(below) if deep else self._list(below)
        yield from self._files[below]
        if deep:
            for folder in sorted(self._folders[below]):
                for name, size in self.files(inside(below, folder), deep=True):
                    yield f"{folder}/{name}", size

    def _list(self, below: str) -> None:
        if below in self._listed or self._is_gathered(below):
            return
        self._listed.add(below)
        here = under(self._root, below)
        assert isinstance(here, RemotePath)
        for info in here.entries():
            name = here.relative(info.path)
            if not name or is_junk(name):
                continue
            if info.is_file:
                self._files[below].append((name, info.size))
            else:
                self._folders[below].add(name)

    def _gather(self, below: str) -> None:
        """List everything below the parent of a class folder in one request. One request per class would make a thousand."""
        top = below.rpartition("/")[0]
        if self._is_gathered(below):
            return
        self._gathered.add(top)
        start = under(self._root, top)
        assert isinstance(start, RemotePath)
        for known in [place for place in (*self._files, *self._folders) if place == top or not top or place.startswith(f"{top}/")]:
            self._files.pop(known, None)
            self._folders.pop(known, None)
        for info in start.entries(recursive=True):
            if not info.is_file:
                continue
            *folders, name = start.relative(info.path).split("/")
            if not name or any(map(is_junk, (*folders, name))):
                continue
            base = top.split("/") if top else []
            for depth, folder in enumerate(folders):
                self._folders["/".join([*base, *folders[:depth]])].add(folder)
            self._files["/".join([*base, *folders])].append((name, info.size))

    def _is_gathered(self, below: str) -> bool:
        return any(top in ("", below) or below.startswith(f"{top}/") for top in self._gathered)
