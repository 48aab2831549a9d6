"""No process of ours imports from the working directory."""

import os

import pytest

from ..support.commands import command
from ..support.shards import make_shards

pytestmark = pytest.mark.process


@pytest.fixture
def shadowed(tmp_path):
    """A folder with modules called as those of the standard library and of ours: whoever imports from it fails."""
    for name in ("random", "queue", "numpy", "cv2", "torch", "click", "alexprep"):
        (tmp_path / "here").mkdir(exist_ok=True)
        (tmp_path / f"here/{name}.py").write_text(f"raise RuntimeError('{name} of the working directory was imported')")
    return tmp_path / "here"


@pytest.mark.parametrize("engine", ["processes", "dask", "ray"])
def test_workers_do_not_import_from_the_working_directory(images, shadowed, tmp_path, engine):
    run = command("alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--size", "32", "--engine", engine, "--workers", "2", cwd=shadowed)

    assert run.returncode == 0, run.stderr
    assert command("alexprep", "verify", tmp_path / "out", "--deep", cwd=shadowed).returncode == 0


def test_the_environment_of_a_program_that_shards_stays_as_it_is(images, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    make_shards(images, tmp_path / "out", size=16)

    assert "PYTHONSAFEPATH" not in os.environ


def test_ranks_do_not_import_from_the_working_directory(trained_on, shadowed, tmp_path):
    arguments = ("--crop", "64", "--width", "0.25", "--batch-size", "8", "--steps", "2", "--cpu-ranks", "2", "--out", tmp_path / "run")
    run = command("alextrain", "run", trained_on, *arguments, cwd=shadowed)

    assert run.returncode == 0, run.stderr
