"""The house keeps its shape: who imports whom, what the docs say, what the package is."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from alexprep.cli.prep import main as prep
from alexprep.cli.train import main as train

from .conftest import ROOT

FILES = sorted(path for top in ("pipeline", "model", "cli") for path in (ROOT / top).rglob("*.py"))
LAYERS = (
    ("errors", "names", "addresses", "config", "hashing", "columns"),
    ("remote", "kernels", "flights", "served_folder"),
    ("storage",),
    ("tracing", "doctor"),
    ("sources", "images", "processes", "moments", "augment", "order", "demo_data", "quiet_forkserver"),
    ("manifest",),
    ("plan", "cache", "writing"),
    ("records",),
    ("stats", "compare"),
    ("verify", "tasks", "views", "export"),
    ("workers", "commit", "feeds", "tickets"),
    ("sharding", "cpu", "graph", "reference", "selfcheck", "access"),
    ("health", "answers", "served", "connections"),
    ("mending", "loader", "receipts", "binding", "service"),
    ("preview",),
)


def imports(path):
    """Every module that a file imports, anywhere in it, by full name."""
    package = ["alexprep", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    top = path.relative_to(ROOT).parts[0]
    found = set(imports(path))
    forbidden = {"pipeline": ("alexprep.model", "alexprep.cli"), "model": ("alexprep.pipeline", "alexprep.cli"), "cli": ()}[top]

    assert not [name for name in found if name.startswith(forbidden)]
    assert top == "cli" or not [name for name in found if name.split(".")[0] in ("click", "tqdm")]
    assert path.name == "graph.py" or not [name for name in found if name.startswith("nvidia")]
    if top == "pipeline":
        assert path.name in ("loader.py", "cpu.py", "graph.py") or "torch" not in {name.split(".")[0] for name in found}


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "pipeline" and p.name != "__init__.py"], ids=lambda path: path.name)
def test_the_pipelines_layers_are_kept(path):
    level = next(i for i, layer in enumerate(LAYERS) if path.stem in layer)
    for name in imports(path):
        part = name.removeprefix("alexprep.pipeline").strip(".").split(".")[0]
        above = [layer for i, layer in enumerate(LAYERS) if i > level and name.startswith("alexprep.pipeline") and part in layer]
        assert not above, f"{path.name} imports {part}"


def test_every_file_is_listed_in_the_readme():
    readme = (ROOT / "README.md").read_text()

    assert not [str(path.relative_to(ROOT)) for path in FILES if path.name != "__init__.py" and path.name not in readme]


@pytest.mark.parametrize("name", [f"alexprep {sub}" for sub in prep.commands] + [f"alextrain {sub}" for sub in train.commands])
def test_every_command_is_documented(name):
    assert f"### {name}\n" in (ROOT / "docs/cli.md").read_text()
    assert name in (ROOT / "README.md").read_text()


def test_links_between_the_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "pipeline").glob("*.md")]:
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
        assert (installed / path.relative_to(ROOT)).read_bytes() == path.read_bytes(), path


def test_importing_the_pipeline_alone_needs_neither_torch_nor_dali():
    code = "import sys; from alexprep.pipeline import ShardJob, compute_stats; print({'torch', 'nvidia'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert run.stdout.strip() == "set()"
