"""Define errors that a user can act on. The command line prints their text and exits with 1."""


class DataError(Exception):
    """A file, option or service is not as expected; the text says what, where, and what to do."""


def printable(text: str) -> str:
    """Return `text` with control characters escaped, so that they do not reach the terminal."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


class UndecodableImage(DataError):
    """The bytes are not an image that can become a record.

    The text is the reason, without the file's name.
    """
