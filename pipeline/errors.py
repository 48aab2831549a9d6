"""Errors that a user can do something about. The command line prints their text and exits with 1."""


class DataError(Exception):
    """Something outside the program is not as expected; the text says what, where, and what to do."""


class UndecodableImage(DataError):
    """The bytes are not an image that can become a record; the text is the reason, without the file's name."""
