"""Ctrl-C."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alexprep.pipeline.storage.files import published_folder

from ..support.commands import begun

PROGRAMS = Path(sys.executable).parent


@pytest.mark.process
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


@pytest.mark.process
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


@pytest.mark.process
def test_ctrl_c_that_is_ignored_stays_so(images, tmp_path):
    """As in the background of a script."""
    program = PROGRAMS / "alexprep"
    script = f"trap '' INT; exec {program} shard --src {images} --out {tmp_path / 'out'} --size 16"
    process = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(10):
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)

    assert process.wait(60) == 0
