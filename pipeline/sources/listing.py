"""What a source must offer, and what it lists."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64


@dataclass(frozen=True, eq=False)
class Listing:
    """The images of one split, sorted by class and name. Three columns, not one object an image."""

    split: str
    keys: list[str]  # where each comes from; for a folder, the path below it
    labels: Int64[np.ndarray, "n"]  # place in the source's list of classes
    sizes: Int64[np.ndarray, "n"]  # bytes, so that a changed file changes the plan

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)


@runtime_checkable
class Source(Protocol):
    """Raw images with labels. Cheap to pickle: worker processes get a copy each."""

    classes: list[str]  # sorted ids, the order of the labels

    def listings(self) -> list[Listing]:
        """Return every split found."""

    def read(self, key: str) -> bytes:
        """Return the bytes of one image; raise UndecodableImage if it cannot be read as one, OSError if it is gone."""

    def notes(self) -> list[str]:
        """Return what a user should know about this source: what was passed over, and why."""
