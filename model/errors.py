"""Errors of training that a user can fix.

The command line prints their text and exits with 1.
"""


class TrainingError(Exception):
    """Training or evaluation cannot go on; the text says why and what to do."""
