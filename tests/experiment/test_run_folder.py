"""The folder of a run: what is written over, what is kept."""

import shutil

import pytest
from alexprep.experiment.checkpoint import load_checkpoint
from alexprep.experiment.run_folder import RunFolder

from ..support.commands import called
from ..support.runs import EACH_STEP, SMALL


def test_the_files_of_a_run_without_its_settings_are_not_written_over(data, tmp_path):
    (tmp_path / "last.pt").touch()
    done = called("alextrain", "run", data, *SMALL, "--out", tmp_path)

    assert (done.returncode, "holds a run's files, but no config.toml" in done.stderr) == (1, True)


def test_going_back_to_a_kept_checkpoint_leaves_the_others_as_they_were(tmp_path):
    """Copies, not links; and what came after the step that training went back to goes first."""
    folder = RunFolder(tmp_path)
    for step in (10, 20, 30):
        (tmp_path / "last.pt").write_bytes(b"%d" % step)
        folder.keep(step, 3)
    shutil.copyfile(tmp_path / "step-20.pt", tmp_path / "last.pt")
    assert (tmp_path / "step-30.pt").read_bytes() == b"30"
    folder.keep(25, 3)

    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-10.pt", "step-20.pt", "step-25.pt"]


@pytest.mark.process
def test_the_newest_checkpoints_are_kept(dozen, tmp_path):
    out = tmp_path / "run"
    done = called("alextrain", "run", dozen, *SMALL, *EACH_STEP, "--set", "keep=3", "--steps", 7, "--out", out)

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.glob("*.pt")) == ["last.pt", "step-5.pt", "step-6.pt", "step-7.pt"]
    assert [load_checkpoint(out / f"step-{step}.pt")["step"] for step in (5, 6, 7)] == [5, 6, 7]
