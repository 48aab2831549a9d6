"""Choose the split to validate on."""

from alexprep.pipeline import Manifest


def validation_split(manifest: Manifest) -> str | None:
    """Return the split to validate on: val, else test (as in CIFAR-10), else None."""
    return next((name for name in ("val", "test") if name in manifest.splits), None)


def split_or_default(manifest: Manifest, split: str | None) -> str:
    """Return `split`, or the split to validate on; DataError if there is no such split."""
    name = split or validation_split(manifest) or "val"
    manifest.split(name)
    return name
