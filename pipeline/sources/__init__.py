"""Where raw images come from: any shape of ImageNet, recognised by its content and read where it lies."""

from .find import find_source
from .listing import Listing, Place, Reader, Source

__all__ = ["Listing", "Place", "Reader", "Source", "find_source"]
