"""Data sets and runs that several files look at; none of them changes them."""

import pytest

from ..support.commands import TINY, called, command
from ..support.runs import EACH_STEP, SMALL
from ..support.shards import training_shards


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Seven steps of sixteen images an epoch."""
    return training_shards(tmp_path_factory.mktemp("seven"), 60)


@pytest.fixture(scope="session")
def dozen(tmp_path_factory):
    """Twelve steps of sixteen images an epoch."""
    return training_shards(tmp_path_factory.mktemp("dozen"), 100)


@pytest.fixture(scope="session")
def few(shards):
    """64-pixel shards, on which a tiny network trains in a second."""
    return shards / "jpeg"


@pytest.fixture(scope="session")
def plain(data, tmp_path_factory):
    """A run of one epoch without any option."""
    out = tmp_path_factory.mktemp("plain") / "run"
    assert called("alextrain", "run", data, *SMALL, *EACH_STEP, "--epochs", 1, "--out", out).returncode == 0
    return out


@pytest.fixture(scope="session")
def finished(few, tmp_path_factory):
    """A run of three epochs, undisturbed, in one process."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run = called("alextrain", "run", few, "--out", folder, "--epochs", "3", *TINY)
    assert run.returncode == 0, run.stderr
    return folder, run


@pytest.fixture(scope="session")
def undisturbed(dozen, tmp_path_factory):
    """A run of sixty steps, as a process: others, which are killed on the way, are compared with it bit by bit."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = command("alextrain", "run", dozen, *SMALL, *EACH_STEP, "--epochs", 5, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A folder with images, their shards, and a run on them."""
    root = tmp_path_factory.mktemp("handover")
    data = training_shards(root, 40)
    done = called("alextrain", "run", data, "--out", root / "run", "--epochs", "1", *TINY)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """A run of `paper`, its data, and a second seed."""
    root = tmp_path_factory.mktemp("evaluation")
    data = training_shards(root, 40)
    for seed in ("0", "1"):
        done = called(
            "alextrain", "run", data, "--out", root / seed, "--epochs", "1", "--preset", "paper", "--seed", seed, "--set", "schedule=fixed", *TINY
        )
        assert done.returncode == 0, done.stderr
    return root
