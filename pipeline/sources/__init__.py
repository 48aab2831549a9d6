"""Where raw images come from. A source lists what it has, in a fixed order, and reads one image by its key."""

from .folder import FolderSource
from .listing import Listing, Source

__all__ = ["FolderSource", "Listing", "Source"]
