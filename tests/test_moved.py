"""Names of earlier releases still give the thing, and warn once."""

import sys
import warnings
from importlib import import_module

import pytest
from alexprep.model import moved as model
from alexprep.pipeline import moved as pipeline

PACKAGES = {"alexprep.pipeline": pipeline, "alexprep.model": model}
MODULES = [(package, old, new) for package, moved in PACKAGES.items() for old, new in moved.MOVED.items()]
NAMES = [(package, old, name, new) for package, moved in PACKAGES.items() for old, names in moved.RENAMED.items() for name, new in names.items()]


@pytest.fixture
def earlier():
    """Import a module by its earlier path as if for the first time, and return it with what was said."""
    made = []

    def imported(name):
        parent, _, last = name.rpartition(".")
        there = getattr(import_module(parent), last, None)
        sys.modules.pop(name, None)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            module = import_module(name)
        made.append((parent, last, there))
        return module, said

    yield imported
    for parent, last, there in made:
        sys.modules.pop(f"{parent}.{last}", None)
        if there is None:
            delattr(import_module(parent), last)
        else:
            setattr(import_module(parent), last, there)


@pytest.mark.parametrize(("package", "old", "new"), MODULES, ids=lambda part: part.removeprefix("alexprep."))
def test_a_moved_module_gives_what_it_had_and_warns_once(earlier, package, old, new):
    module, said = earlier(f"{package}.{old}")
    now = import_module(f"{package}.{new}")
    names = [name for name, value in vars(now).items() if not name.startswith("_") and getattr(value, "__module__", None) == now.__name__]

    assert [(one.category, str(one.message)) for one in said] == [(DeprecationWarning, f"{package}.{old} is now {package}.{new}")]
    assert all(getattr(module, name) is getattr(now, name) for name in names if name not in PACKAGES[package].RENAMED.get(old, {}))
    with pytest.raises(AttributeError):
        getattr(module, "no_such_name")  # noqa: B009  (mypy and ruff know that it is not there)


@pytest.mark.parametrize(("package", "old", "name", "new"), NAMES, ids=lambda part: part.removeprefix("alexprep."))
def test_a_renamed_thing_is_found_by_its_earlier_name(earlier, package, old, name, new):
    module, said = earlier(f"{package}.{old}")
    where, _, now = new.rpartition(".")
    expected = getattr(import_module(f"{package}.{where or PACKAGES[package].MOVED[old]}"), now)

    assert getattr(module, name) is expected
    assert [one.category for one in said] == [DeprecationWarning]


@pytest.mark.parametrize(("package", "module", "name"), [("pipeline.storage", "files", "lock"), ("model.report", "report", "render")])
def test_a_package_that_was_a_module_gives_its_names_and_warns_once(package, module, name):
    found = {}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")  # once a line: an import looks twice
        exec(f"from alexprep.{package} import {name}", found)

    assert found[name] is getattr(import_module(f"alexprep.{package}.{module}"), name)
    assert [(one.category, str(one.message)) for one in said] == [
        (DeprecationWarning, f"alexprep.{package}.{name} is now alexprep.{package}.{module}.{name}")
    ]


@pytest.mark.parametrize("package", ["pipeline.storage", "model.report"])
def test_a_package_that_was_a_module_has_no_other_names(package):
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        import_module(f"alexprep.{package}").no_such_name  # noqa: B018  (to be refused)
