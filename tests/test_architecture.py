"""The house keeps its shape: who imports whom, what the docs say, what the package is."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from alexprep.cli.alexprep import main as prep
from alexprep.cli.alextrain import main as train

from .conftest import MODULES as HOOKED
from .support.paths import ROOT

FILES = sorted(path for top in ("pipeline", "model", "cli") for path in (ROOT / top).rglob("*.py"))
ROOMS = {  # of each package, what it may import last
    "pipeline": (
        ("errors", "names", "addresses", "config", "counter_rng", "arrow", "lazy", "moved"),
        ("storage",),
        ("imaging",),
        ("sources",),
        ("shards",),
        ("preparation",),
        ("batches",),
        ("serving",),
        ("loader",),
        ("inspection",),
    ),
    "model": (("errors", "environment", "config", "events", "distributed", "moved"), ("networks",), ("evaluation",), ("training",), ("report",)),
}
TOPS = ("pipeline", "model", "experiment", "cli")  # pipeline and model know nothing of each other
MOST_MODULES = 15  # in a folder


def module(path):
    """The full name of the module in a file: cli/experiment is the package alexprep.experiment."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("alexprep", *(parts[1:] if parts[:2] == ("cli", "experiment") else parts))).removesuffix(".__init__")


def imports(path):
    """Every module that a file imports, anywhere in it, by full name."""
    package = module(path).split(".") if path.name == "__init__.py" else module(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module_ = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield module_
            yield from (f"{module_}.{alias.name}" for alias in node.names)


def room(top, name):
    """The index of the room that a module of a package is in."""
    part = name.split(".")[2]
    return next(index for index, rooms in enumerate(ROOMS[top]) if part in rooms)


MODULES = {module(path): path for path in FILES}
IMPORTS = {name: {found for found in imports(path) if found in MODULES and found != name} for name, path in MODULES.items()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    top = module(path).split(".")[1]
    found = set(imports(path))
    forbidden = {"pipeline": ("model", "experiment", "cli"), "model": ("pipeline", "experiment", "cli"), "experiment": ("cli",), "cli": ()}[top]

    assert not [name for name in found if name.startswith(tuple(f"alexprep.{other}" for other in forbidden))]
    assert top == "cli" or not [name for name in found if name.split(".")[0] in ("click", "tqdm")]
    assert path.stem == "dali_engine" or not [name for name in found if name.startswith("nvidia")]
    if top == "pipeline":
        assert path.stem in ("loader", "cpu_engine", "dali_engine") or "torch" not in {name.split(".")[0] for name in found}


@pytest.mark.parametrize("top", ROOMS)
def test_a_room_imports_only_rooms_before_it(top):
    doors = {name for name, path in MODULES.items() if path.name == "__init__.py"}  # the face of a package imports its rooms when it is asked
    names = [name for name in MODULES if name.startswith(f"alexprep.{top}.") and name not in doors]
    wrong = [
        f"{name} imports {other}"
        for name in names
        for other in IMPORTS[name]
        if other.startswith(f"alexprep.{top}.") and room(top, other) > room(top, name)
    ]

    assert not wrong


def test_no_module_imports_itself_through_others():
    graph = {name: {other for other in found if MODULES[other].name != "__init__.py"} for name, found in IMPORTS.items()}

    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_folder_has_more_modules_than_one_can_look_over():
    folders = {path.parent for path in FILES}
    sizes = {str(folder.relative_to(ROOT)): len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) for folder in folders}

    assert {folder: size for folder, size in sizes.items() if size > MOST_MODULES} == {}


def test_the_guard_of_shapes_is_on_every_module():
    """The hook of conftest.py is told names: a module that it does not know would pass unchecked."""
    wanted = {name for name, path in MODULES.items() if name.split(".")[1] in ("pipeline", "model") and path.name not in ("__init__.py", "config.py")}

    assert wanted <= set(HOOKED)


@pytest.mark.parametrize("name", [f"alexprep {sub}" for sub in prep.list_commands(None)] + [f"alextrain {sub}" for sub in train.list_commands(None)])
def test_every_command_is_documented(name):
    assert f"### {name}\n" in (ROOT / "docs/cli.md").read_text()
    assert name in (ROOT / "README.md").read_text()


DOCUMENTS = [*ROOT.glob("*.md"), *(path for top in ("docs", "pipeline", "model", "cli") for path in (ROOT / top).rglob("*.md"))]


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES}), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_room_says_what_is_in_it(folder):
    """A room's README names each of its modules, or the README of the room around it does."""
    readme = next(path / "README.md" for path in (folder, *folder.parents) if (path / "README.md").exists())
    text = readme.read_text()

    assert readme.parent != ROOT
    if readme.parent == folder:
        assert [path.name for path in folder.glob("*.py") if path.name != "__init__.py" and path.name not in text] == []
        assert [path.name for path in folder.iterdir() if (path / "__init__.py").exists() and f"{path.name}/" not in text] == []
    else:
        assert f"{folder.name}/" in text


@pytest.mark.parametrize("page", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_in_the_documents_are_there(page):
    """A path with one of our folders at its front must exist: a moved module takes the documents along."""
    named = re.findall(r"`((?:pipeline|model|cli|tests|benchmarks|examples|deploy|docs)/[\w./-]*)`", page.read_text())

    assert [path for path in named if not (ROOT / path).exists()] == []


def test_links_between_the_documents_lead_somewhere():
    for page in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_lock_file_has_every_dependency_within_its_range():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().lower().replace("_", "-").split())
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    wanted = [*project["project"]["dependencies"], *extras["train"], *extras["cuda12"][1:], *groups["test"], *groups["lint"], *groups["docs"]]
    for text in [*wanted, *extras["ray"], *extras["dask"], *extras["export"]]:
        requirement = Requirement(text)
        assert locked[requirement.name.lower()] in requirement.specifier, text


@pytest.mark.process
def test_the_installed_package_has_every_file_as_it_is_here():
    """The tests run on what is installed: a stale build, or a file that the wheel forgot, would prove nothing."""
    code = "import alexprep.pipeline; print(alexprep.pipeline.__file__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    installed = Path(run.stdout.strip()).parent.parent
    files = (
        path for top in ("pipeline", "model", "cli") for path in (ROOT / top).rglob("*") if path.is_file() and path.suffix not in (".so", ".c", ".h")
    )
    here = [path for path in files if "__pycache__" not in path.parts]

    assert len(here) > 40
    for path in here:
        parts = path.relative_to(ROOT).parts
        place = installed.joinpath(*(parts[1:] if parts[:2] == ("cli", "experiment") else parts))
        assert place.read_bytes() == path.read_bytes(), path


@pytest.mark.process
def test_importing_the_pipeline_alone_needs_neither_torch_nor_dali():
    code = "import sys; from alexprep.pipeline import ShardJob, compute_stats; print({'torch', 'nvidia'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert run.stdout.strip() == "set()"
