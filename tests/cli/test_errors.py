"""The limits of a system, told as such."""

import subprocess
import sys
from pathlib import Path

import pytest
from alexprep.cli.errors import _limit

from ..support.commands import command

PROGRAMS = Path(sys.executable).parent


@pytest.mark.process
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


@pytest.mark.process
def test_a_folder_that_another_process_writes_is_said_to_be_so(images, tmp_path):
    from alexprep.pipeline.storage.files import lock

    (tmp_path / "out").mkdir()
    with lock(tmp_path / "out"):
        run = command("alexprep", "shard", "--src", images, "--out", tmp_path / "out")

    assert run.returncode == 1
    assert "is being written by another process" in run.stderr


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
