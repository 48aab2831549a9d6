"""Module paths of earlier releases: they still work, and warn."""

import sys
import warnings
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {  # module -> where it is now
    "alexnet": "networks.alexnet",
    "cifar": "networks.cifar",
    "layers": "networks.layers",
    "kernels": "networks.kernels",
    "parallel": "networks.partition",
    "describe": "networks.summary",
    "deployed": "networks.inference",
    "evaluator": "evaluation.evaluator",
    "analysis": "evaluation.analysis",
    "neighbours": "evaluation.neighbours",
    "figures": "evaluation.figures",
    "trainer": "training.trainer",
    "optimizer": "training.optimizer",
    "schedule": "training.schedule",
    "layout": "training.parallel_layout",
}
RENAMED = {  # of a moved module: name -> its name now, or module and name if it went elsewhere
    "alexnet": {"Switches": "Ablations"},
    "parallel": {"Split": "Partition"},
    "describe": {"Row": "LayerRow"},
    "trainer": {"Pace": "TrainerConfig", "Batches": "BatchSource"},
    "schedule": {"Event": "ScheduleEvent"},
    "layout": {"Layout": "ParallelLayout"},
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
