"""Which split of a data set is validated on."""

from alexprep.pipeline import Manifest


def validation_split(manifest: Manifest) -> str | None:
    """Return what is validated on: val, or where there is none, as of CIFAR-10, test; None without either."""
    return next((name for name in ("val", "test") if name in manifest.splits), None)


def split_or_default(manifest: Manifest, split: str | None) -> str:
    """Return the split asked for, or the one that is validated on; DataError if there is no such split."""
    name = split or validation_split(manifest) or "val"
    manifest.split(name)
    return name
