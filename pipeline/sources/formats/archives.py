"""The members of a tar, from its headers alone: nothing is unpacked, and no name leads anywhere."""

import tarfile
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from ...errors import DataError
from ...storage.uri import Location
from ..listing import shown, some
from ..reading import ByteWindow


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    offset: int  # of its bytes in the outermost file
    size: int


class Passed:
    """Members that are not read, by what they are: each kind is noted with its count and some names."""

    def __init__(self) -> None:
        """Know of none yet."""
        self._names: dict[str, list[str]] = defaultdict(list)

    def add(self, what: str, name: str) -> None:
        """Remember one."""
        self._names[what].append(shown(name))

    def notes(self) -> list[str]:
        """Return a note for each kind."""
        return [f"{len(names)} {what} in the tars are not read ({some(names)})" for what, names in self._names.items()]


def members(path: Location, offset: int = 0, size: int | None = None, passed: Passed | None = None, inner: str = "") -> Iterator[Member]:
    """Yield the regular files of a tar that begins at `offset` of `path`, as its member `inner`; remember the others in `passed`.

    DataError if it is damaged, ends without its end marker, which means that something was cut off, or goes on behind it.
    """
    window = ByteWindow(path, offset, size)
    inside = f"{path}: the class tar {shown(inner)}" if inner else f"{path}"
    try:
        with tarfile.open(fileobj=window, mode="r:") as archive:  # type: ignore[call-overload]  # Window is as much of a file as it needs
            while (member := archive.next()) is not None:
                archive.members.clear()  # else it remembers them all
                if member.size < 0 or member.offset_data + member.size > window.size:
                    raise DataError(f"{inside} is cut off in {shown(member.name)}; fetch it again")
                if member.isreg() and not member.issparse():
                    yield Member(member.name, offset + member.offset_data, member.size)
                elif not member.isdir() and passed is not None:
                    passed.add("links, devices and the like", member.name)
            end = archive.offset
        window.seek(end)
        if any(window.read(512)) or end >= window.size:
            raise DataError(f"{inside} has no end marker after byte {end}: it is cut off or damaged; fetch it again")
        while rest := window.read(window.MAX_READ):
            if rest.strip(b"\0"):
                remedy = "fetch it again, or, if several archives were joined, take them apart"
                raise DataError(f"{inside} goes on behind the end marker at byte {end}: a header is damaged; {remedy}")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{inside} cannot be read as a tar: {error}; fetch it again") from error
    finally:
        window.close()
