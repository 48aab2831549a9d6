"""Render one run or several as one self-contained HTML file."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module attribute may be anything)
    """Return a name that the module alexprep.model.report had in earlier releases, and warn."""
    from . import report

    if name.startswith("_") or not hasattr(report, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"alexprep.model.report.{name} is now alexprep.model.report.report.{name}", DeprecationWarning, stacklevel=2)
    return getattr(report, name)
