"""Training runs as a library: everything between a command and the two packages it joins.

    from alexprep.experiment import Run, RunConfig
    config = RunConfig.from_preset("source", width=0.25)
    for event in Run(config, data="shards", out="runs/first"): ...

Names are loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from alexprep.pipeline import lazy

if TYPE_CHECKING:
    from .ablation.ablation import Ablation
    from .ablation.grid import grid, study
    from .config import RunConfig, RunOptions
    from .events import Event, Finished, Measured, Notice, Started, StepLog, Stopped, Tick, Validation
    from .exporting.export import export
    from .measuring.evaluate import Measurement, evaluate
    from .measuring.predict import classify
    from .progress import Progress, ProgressBar
    from .reporting.report_data import write_report
    from .run import Run
    from .run_folder import RunFolder

__all__ = [
    "Ablation",
    "Event",
    "Finished",
    "Measured",
    "Measurement",
    "Notice",
    "Progress",
    "ProgressBar",
    "Run",
    "RunConfig",
    "RunFolder",
    "RunOptions",
    "Started",
    "StepLog",
    "Stopped",
    "Tick",
    "Validation",
    "classify",
    "evaluate",
    "export",
    "grid",
    "study",
    "write_report",
]

_HOME = {
    "Ablation": "ablation.ablation",
    **dict.fromkeys(("grid", "study"), "ablation.grid"),
    **dict.fromkeys(("RunConfig", "RunOptions"), "config"),
    **dict.fromkeys(("Event", "Finished", "Measured", "Notice", "Started", "StepLog", "Stopped", "Tick", "Validation"), "events"),
    "export": "exporting.export",
    **dict.fromkeys(("Measurement", "evaluate"), "measuring.evaluate"),
    "classify": "measuring.predict",
    **dict.fromkeys(("Progress", "ProgressBar"), "progress"),
    "write_report": "reporting.report_data",
    "Run": "run",
    "RunFolder": "run_folder",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module attribute may be anything)
    """Import the module that defines `name`; `__version__` is the release."""
    return lazy.attribute(__name__, _HOME, name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not, for completion."""
    return [*__all__, "__version__"]
