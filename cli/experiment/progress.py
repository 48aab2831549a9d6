"""Protocols for progress: the library reports it, a program displays it."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class ProgressBar(Protocol):
    """Displays the progress of one piece of work."""

    def at(self, done: int, note: str = "") -> None:
        """Show that `done` units are finished, and a short note."""

    def close(self) -> None:
        """End the display."""


@runtime_checkable
class Progress(Protocol):
    """Begins the display of a piece of work.

    `what` names it ("eval"), `total` is its size in units, None if unknown, `unit` names the units
    ("batches").
    """

    def __call__(self, what: str, total: int | None, unit: str) -> ProgressBar:
        """Return its display."""


class Silent:
    """Shows nothing."""

    def __init__(self, what: str = "", total: int | None = None, unit: str = "") -> None:
        """Accept the arguments of any Progress."""

    def at(self, done: int, note: str = "") -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""
