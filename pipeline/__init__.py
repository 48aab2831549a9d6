"""Raw images to training batches: shards, their statistics, and a loader whose every batch is a pure function.

    from alexprep.pipeline import Loader
    for images, labels, records in Loader("shards/", batch_size=128, seed=0): ...

Names are loaded on first use, so that importing this package (and `alexprep --help`) costs nothing: `Loader` alone
needs torch, and DALI on a GPU.
"""

from typing import TYPE_CHECKING, Any

from . import lazy, moved

if TYPE_CHECKING:
    from .batches.steps import DamagedRecord
    from .config import LoaderConfig, ShardConfig
    from .errors import DataError
    from .loader import Batch, Loader
    from .preparation.job import ShardJob
    from .shards.manifest import Manifest, read_manifest
    from .shards.reader import Records
    from .shards.stats import Stats, compute_stats, load_stats

__all__ = [
    "Batch",
    "DamagedRecord",
    "DataError",
    "Loader",
    "LoaderConfig",
    "Manifest",
    "Records",
    "ShardConfig",
    "ShardJob",
    "Stats",
    "compute_stats",
    "load_stats",
    "read_manifest",
]

_HOME = {
    "Batch": "loader",
    "DamagedRecord": "batches.steps",
    "DataError": "errors",
    "Loader": "loader",
    "LoaderConfig": "config",
    "Manifest": "shards.manifest",
    "Records": "shards.reader",
    "ShardConfig": "config",
    "ShardJob": "preparation.job",
    "Stats": "shards.stats",
    "compute_stats": "shards.stats",
    "load_stats": "shards.stats",
    "read_manifest": "shards.manifest",
}

moved.install(__name__)


def __getattr__(name: str) -> Any:  # noqa: ANN401  (a module attribute may be anything)
    """Import the module that defines `name`; `__version__` is the release."""
    return lazy.attribute(__name__, _HOME, name)


def __dir__() -> list[str]:
    """Return the public names, loaded or not, for completion."""
    return [*__all__, "__version__"]
