"""Processes that are started, waited for, interrupted, and that meet the limits of a system."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from alexprep.cli.errors import _limit
from alexprep.model.environment import launched
from alexprep.model.errors import TrainingError
from alexprep.pipeline.storage.files import published_folder

from ..support.commands import called, command
from ..support.shards import make_shards, training_shards

PROGRAMS = Path(sys.executable).parent


def begun(*arguments, **options):
    program, *rest = map(str, arguments)
    return subprocess.Popen([PROGRAMS / program, *rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory):
    return training_shards(tmp_path_factory.mktemp("children"), 16)


# The working directory


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


# Ranks that wait

ALONE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_a_rank_that_waits_for_others_says_so_and_hears_signals(trained_on, tmp_path, number, code):
    port = free_port()
    arguments = ("alextrain", "run", trained_on, "--crop", "64", "--batch-size", "8", "--steps", "2", "--out", tmp_path / "run")
    process = begun(*arguments, env=os.environ | ALONE | {"MASTER_PORT": port})
    said = process.stderr.readline()
    process.send_signal(number)
    _, rest = process.communicate(timeout=30)

    assert f"rank 0 waits for 1 other rank at 127.0.0.1:{port}" in said
    assert process.returncode == code
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not"),
        (ALONE, "MASTER_PORT is not"),
        (ALONE | {"MASTER_PORT": "1", "RANK": "2"}, "RANK is 2 and WORLD_SIZE is 2"),
        (ALONE | {"MASTER_PORT": "x"}, "MASTER_PORT is 'x': expected a whole number"),
        (ALONE | {"MASTER_PORT": "99999"}, "a port is 1 to 65535"),
    ],
    ids=range(5),
)
def test_what_a_launcher_left_out_is_named(monkeypatch, trained_on, environment, said):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert launched() is None
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(TrainingError, match=re.escape(said)):
        launched()
    run = called("alextrain", "run", trained_on, "--crop", "64", "--batch-size", "8", "--steps", "1")
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)
    assert said in run.stderr


# Ctrl-C


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.05, 0.2, 0.6])
@pytest.mark.parametrize(
    "arguments",
    [
        ("alextrain", "run", "nowhere", "--steps", "1"),
        ("alexprep", "shard", "--src", "SRC", "--out", "OUT"),
        ("alexprep", "demo-data", "--out", "OUT"),
    ],
    ids=["run", "shard", "demo-data"],
)
def test_ctrl_c_prints_no_traceback_in_the_first_second_either(images, tmp_path, arguments, seconds):
    places = {"SRC": str(images), "OUT": str(tmp_path / "out")}
    program, *rest = (places.get(word, word) for word in arguments)
    code = (  # tells when it has taken over SIGINT: before that Python itself is starting
        "from alexprep.cli import entry, interrupts; take = interrupts.signal; "
        f"interrupts.signal = lambda *what: (take(*what), print('begun', flush=True)); entry.{program}()"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", code, *rest], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout.readline() == "begun\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert "Traceback" not in said, said
    assert process.returncode in (0, 1, 130), said  # it may have been at its end by then
    if process.returncode == 130:
        assert said == "" or "interrupted" in said
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_demo_data_are_whole_or_not_there_after_ctrl_c(tmp_path):
    process = begun("alexprep", "demo-data", "--train", "2000", "--out", tmp_path / "images")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not list(tmp_path.glob(".*partial*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert (process.returncode, list(tmp_path.iterdir())) == (130, [])
    assert "interrupted" in said


def test_a_folder_is_published_whole_and_what_dead_processes_left_is_removed(tmp_path):
    from alexprep.pipeline.storage.files import aside

    left = aside(tmp_path / "out", 2**22 + 1)  # no process has this number
    left.mkdir()
    with pytest.raises(KeyboardInterrupt), published_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []
    with published_folder(tmp_path / "out") as folder:
        (folder / "x").touch()
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "x"]


# Limits


@pytest.mark.parametrize("files", [14, 18, 20, 22])
def test_a_limit_of_files_at_the_start_of_workers_is_one_line(images, tmp_path, files):
    program = PROGRAMS / "alexprep"
    script = f"ulimit -n {files}; exec {program} shard --src {images} --out {tmp_path / 'out'} --size 16 --workers 4"
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)

    assert "Traceback" not in run.stderr
    if run.returncode:
        assert len(run.stderr.strip().splitlines()) == 1
        assert "ulimit -n" in run.stderr or "Too many open files" in run.stderr


def raised_by(file, error):
    """The error as code in that file raises it."""
    try:
        exec(compile("raise error", file, "exec"), {"error": error})
    except Exception as found:
        return found


def test_a_folder_that_another_process_writes_is_said_to_be_so(images, tmp_path):
    from alexprep.pipeline.storage.files import lock

    (tmp_path / "out").mkdir()
    with lock(tmp_path / "out"):
        run = command("alexprep", "shard", "--src", images, "--out", tmp_path / "out")

    assert run.returncode == 1
    assert "is being written by another process" in run.stderr


def test_ctrl_c_that_is_ignored_stays_so(images, tmp_path):
    """As in the background of a script."""
    program = PROGRAMS / "alexprep"
    script = f"trap '' INT; exec {program} shard --src {images} --out {tmp_path / 'out'} --size 16"
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(10):
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)

    assert process.wait(60) == 0


def test_limits_of_processes_and_threads_are_told_as_such():
    assert "ulimit -u" in _limit(
        raised_by("/usr/lib/python3.11/multiprocessing/popen_fork.py", BlockingIOError(11, "Resource temporarily unavailable"))
    )
    assert "could not be started" in _limit(raised_by("/usr/lib/python3.11/multiprocessing/forkserver.py", EOFError()))
    assert _limit(BlockingIOError(11, "Resource temporarily unavailable")) is None  # a lock that is held
    assert "ulimit -u" in _limit(RuntimeError("can't start new thread"))
    assert "ulimit -n" in _limit(OSError(24, "Too many open files"))
    assert _limit(EOFError()) is None
    assert _limit(ValueError("x")) is None
    outer = RuntimeError("outer")
    outer.__cause__ = OSError(23, "Too many open files in system")
    assert "ulimit -n" in _limit(outer)


# Exports


@pytest.mark.parametrize(
    ("kind", "value"),
    [("safetensors", "nan"), ("onnx", "inf"), ("hub-folder", "-inf")],
)
def test_a_diverged_network_is_exported_in_no_format(trained_on, tmp_path_factory, kind, value):
    root = tmp_path_factory.getbasetemp() / "diverged"
    if not root.exists():
        arguments = ("--crop", "64", "--width", "0.25", "--batch-size", "8", "--steps", "1", "--out", root)
        assert called("alextrain", "run", trained_on, *arguments).returncode == 0
    state = torch.load(root / "last.pt", weights_only=True)
    next(iter(state["model"].values()))[0, 0, 0, 0] = float(value)
    torch.save(state, root / "bad.pt")
    run = called("alextrain", "export", root / "bad.pt", "--to", kind, "--out", root / "out")

    assert run.returncode == 1
    assert "have diverged (conv1.weight are not finite): nothing was written" in run.stderr
    assert not (root / "out").exists()
