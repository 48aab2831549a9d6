"""List the members of a tar from its headers alone.

Nothing is unpacked, and no member name is used as a path.
"""

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
    offset: int  # of its first byte in the outermost file
    size: int


class Passed:
    """Collects members that are not read; each kind is noted with its count and some names."""

    def __init__(self) -> None:
        """Start empty."""
        self._names: dict[str, list[str]] = defaultdict(list)

    def add(self, what: str, name: str) -> None:
        """Add the member `name` of the kind `what`."""
        self._names[what].append(shown(name))

    def notes(self) -> list[str]:
        """Return a note for each kind."""
        return [f"{len(names)} {what} in the tars are not read ({some(names)})" for what, names in self._names.items()]


def members(path: Location, offset: int = 0, size: int | None = None, passed: Passed | None = None, inner: str = "") -> Iterator[Member]:
    """Yield the regular files of a tar at `offset` of `path`; add other members to `passed`.

    `inner` names the tar if it is a member of `path`. Raise DataError if it is damaged, has no end
    marker (something was cut off), or has data after the end marker.
    """
    window = ByteWindow(path, offset, size)
    inside = f"{path}: the class tar {shown(inner)}" if inner else f"{path}"
    try:
        # A ByteWindow has the methods of a file that tarfile needs.
        with tarfile.open(fileobj=window, mode="r:") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members.clear()  # else tarfile keeps them all
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
                remedy = "fetch it again, or, if several archives were joined, separate them"
                raise DataError(f"{inside} has data after the end marker at byte {end}: a header is damaged; {remedy}")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{inside} cannot be read as a tar: {error}; fetch it again") from error
    finally:
        window.close()
