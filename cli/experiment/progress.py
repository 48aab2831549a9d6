"""How a long piece of work tells how far it is: a library says it, a program shows it."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class ProgressBar(Protocol):
    """Shows one piece of work."""

    def at(self, done: int, note: str = "") -> None:
        """Take how much is done, and a short note."""

    def close(self) -> None:
        """End."""


@runtime_checkable
class Progress(Protocol):
    """Begins a piece of work, such as "eval", of a known or unknown total of units, such as "batches"."""

    def __call__(self, what: str, total: int | None, unit: str) -> ProgressBar:
        """Return what shows it."""


class Silent:
    """Shows nothing."""

    def __init__(self, what: str = "", total: int | None = None, unit: str = "") -> None:
        """Take the same as any other Progress."""

    def at(self, done: int, note: str = "") -> None:
        """Show nothing."""

    def close(self) -> None:
        """Show nothing."""
