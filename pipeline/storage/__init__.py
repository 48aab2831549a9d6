"""Read and write stored bytes: local files, object stores, the files of a server."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module attribute may be anything)
    """Return a name that moved from alexprep.pipeline.storage to its `files` module, and warn."""
    from . import files

    if name.startswith("_") or not hasattr(files, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"alexprep.pipeline.storage.{name} is now alexprep.pipeline.storage.files.{name}", DeprecationWarning, stacklevel=2)
    return getattr(files, name)
