"""Errors that a user can do something about. The command line prints their text and exits with 1."""


class DataError(Exception):
    """Something outside the program is not as expected; the text says what, where, and what to do."""


def printable(text: str) -> str:
    """Return `text` as it can be shown: without control characters, which would reach the terminal."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)


class UndecodableImage(DataError):
    """The bytes are not an image that can become a record; the text is the reason, without the file's name."""
