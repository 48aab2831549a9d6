"""Find and read raw images: any shape of ImageNet, recognised by content and read in place."""

from .find import find_source
from .listing import Listing, Place, Reader, Source

__all__ = ["Listing", "Place", "Reader", "Source", "find_source"]
