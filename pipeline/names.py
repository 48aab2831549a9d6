"""Check names that were read from files before they become parts of paths.

They are names of splits, shards, classes, keys and members of archives.
"""

from .errors import printable

LONGEST = 255  # maximum bytes of one name in a file system


def why_unsafe(part: str) -> str | None:
    """Return why `part` cannot be one part of a path; None if it can."""
    if not part:
        return "it is empty"
    if part in (".", ".."):
        return "it means this folder or its parent"
    if "/" in part:
        return "it has a slash"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in part):
        return "it has a control character"
    try:
        size = len(part.encode())
    except UnicodeEncodeError:
        return "it is not UTF-8"
    return f"it has {size} bytes; at most {LONGEST} are allowed" if size > LONGEST else None


def safe_part(part: str, what: str) -> str:
    """Return `part`; raise ValueError if it cannot be one part of a path. The error calls it `what`."""
    reason = why_unsafe(part)
    if reason:
        raise ValueError(f"{what} {printable(part[:100])!r} cannot be a name in a folder: {reason}")
    return part


def safe_file(name: str, what: str) -> str:
    """Return `name`, which is the name of one of our files, or the beginning of such names.

    Raise ValueError if `safe_part` would, or if it begins with a dot, as temporary files do. The error calls it `what`.
    """
    if name.startswith("."):
        raise ValueError(f"{what} {printable(name[:100])!r} cannot be a name in a folder: it begins with a dot")
    return safe_part(name, what)
