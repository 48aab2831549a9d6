"""The gate that every name out of a file passes before it becomes a part of a path: of a split, a shard, a class, a key, an archive's member."""

from .errors import printable

LONGEST = 255  # bytes that file systems take for one name


def why_unsafe(part: str) -> str | None:
    """Return why `part` cannot be one part of a path, None if it can."""
    if not part:
        return "it is empty"
    if part in (".", ".."):
        return "it leads elsewhere"
    if "/" in part:
        return "it has a slash"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in part):
        return "it has a control character"
    try:
        size = len(part.encode())
    except UnicodeEncodeError:
        return "it is not UTF-8"
    return f"it has {size} bytes; at most {LONGEST} can be" if size > LONGEST else None


def safe_part(part: str, what: str) -> str:
    """Return `part`; ValueError, naming it as `what`, if it cannot be one part of a path."""
    reason = why_unsafe(part)
    if reason:
        raise ValueError(f"{what} {printable(part[:100])!r} cannot be a name in a folder: {reason}")
    return part


def safe_file(name: str, what: str) -> str:
    """Return the name of a file of ours, or what it begins with: a safe part without a dot first, as temporary files have one."""
    if name.startswith("."):
        raise ValueError(f"{what} {printable(name[:100])!r} cannot be a name in a folder: it begins with a dot")
    return safe_part(name, what)
