"""Module paths of earlier releases: they still work, and warn."""

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {  # module -> where it is now
    "hashing": "counter_rng",
    "columns": "arrow",
    "remote": "storage.uri",
    "flights": "storage.flight_client",
    "served_folder": "storage.flight_fs",
    "tracing": "storage.trace",
    "images": "imaging.codec",
    "kernels": "imaging.kernels",
    "moments": "imaging.moments",
    "sources.folder": "sources.formats.folder",
    "sources.tars": "sources.formats.tars",
    "sources.archives": "sources.formats.archives",
    "sources.webdataset": "sources.formats.webdataset",
    "sources.parquet": "sources.formats.parquet",
    "sources.tfrecord": "sources.formats.tfrecord",
    "manifest": "shards.manifest",
    "writing": "shards.writer",
    "records": "shards.reader",
    "cache": "shards.cache",
    "stats": "shards.stats",
    "plan": "preparation.plan",
    "tasks": "preparation.shard_task",
    "workers": "preparation.executors",
    "processes": "preparation.process_pool",
    "quiet_forkserver": "preparation.quiet_forkserver",
    "sharding": "preparation.job",
    "commit": "preparation.finalize",
    "mending": "preparation.repair",
    "verify": "preparation.verify",
    "compare": "preparation.diff",
    "export": "preparation.export",
    "order": "batches.sampler",
    "augment": "batches.augment",
    "views": "batches.views",
    "feeds": "batches.steps",
    "cpu": "batches.cpu_engine",
    "graph": "batches.dali_engine",
    "reference": "batches.reference",
    "tickets": "serving.protocol",
    "served": "serving.remote_steps",
    "answers": "serving.handlers",
    "access": "serving.auth",
    "health": "serving.metrics",
    "connections": "serving.stalls",
    "service": "serving.server",
    "receipts": "inspection.replay",
    "preview": "inspection.preview",
    "selfcheck": "inspection.randomness",
    "binding": "inspection.bottleneck",
    "doctor": "inspection.doctor",
    "demo_data": "inspection.demo_data",
}
RENAMED = {  # of a moved module: name -> its name now, or module and name if it went elsewhere
    "order": {"Plan": "Sampler", "permutation": "counter_rng.permutation", "argsort": "counter_rng.argsort"},
    "plan": {"Plan": "ShardPlan", "Shuffle": "SplitShuffle"},
    "views": {"Feed": "StepInput"},
    "feeds": {"Feeds": "StepSource"},
    "answers": {"Answers": "RequestHandler"},
    "served": {"Answer": "ServedStep"},
    "tickets": {"Shape": "ViewShape"},
    "tasks": {"Ticks": "ProgressCallbacks", "Bad": "Quarantined"},
    "cpu": {"Memory": "BufferPool"},
    "writing": {"Row": "RecordRow"},
    "mending": {"AppendJob": "preparation.append.AppendJob"},
    "compare": {
        "DuplicateSearch": "preparation.duplicates.DuplicateSearch",
        "difference_hash": "preparation.duplicates.difference_hash",
        "close_pairs": "preparation.duplicates.close_pairs",
        "Twins": "preparation.duplicates.DuplicateGroup",
    },
    "manifest": {"Shard": "shards.sidecar.Shard", "Sidecar": "shards.sidecar.Sidecar", "read_sidecar": "shards.sidecar.read_sidecar"},
    "preview": {"Row": "SampleRow"},
    "selfcheck": {"Finding": "RandomnessFinding"},
    "export": {"Shape": "ExportFormat"},
    "demo_data": {"Shape": "ShapeDrawer"},
}


class MovedModules:
    """A finder of sys.meta_path for the modules of MOVED in one package."""

    def __init__(self, package: str) -> None:
        """Take the full name of the package."""
        self._package = package

    def find_spec(self, name: str, _path: object, _target: object = None) -> ModuleSpec | None:
        """Return the spec of a moved module, None for any other."""
        package, _, old = name.rpartition(f"{self._package}.")
        return ModuleSpec(name, self) if not package and old in MOVED else None  # type: ignore[arg-type]  # it has what a loader needs

    def create_module(self, _spec: ModuleSpec) -> None:
        """Let Python make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Warn, and look up every name of the module where it is now."""
        old = module.__name__.removeprefix(f"{self._package}.")
        warnings.warn(f"{module.__name__} is now {self._package}.{MOVED[old]}", DeprecationWarning, stacklevel=2)

        def attribute(name: str) -> Any:  # noqa: ANN401  (a module attribute may be anything)
            if name.startswith("__"):
                raise AttributeError(name)
            where, _, new = RENAMED.get(old, {}).get(name, name).rpartition(".")
            return getattr(import_module(f"{self._package}.{where or MOVED[old]}"), new)

        vars(module)["__getattr__"] = attribute


def install(package: str) -> None:
    """Let Python find the moved modules of `package`."""
    sys.meta_path.append(MovedModules(package))
