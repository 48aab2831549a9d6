"""Public names of a package, imported on first use (PEP 562), so that importing the package costs nothing."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def attribute(package: str, homes: Mapping[str, str], name: str) -> Any:  # noqa: ANN401  (a module attribute may be anything)
    """Return `name` of `package` from the module that `homes` names for it, or the release as `__version__`; AttributeError for any other name."""
    if name == "__version__":
        from importlib.metadata import version

        return version("alexprep")
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(f".{homes[name]}", package), name)
