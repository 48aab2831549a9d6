"""A trial of everything with one batch."""

import pytest

from ..support.commands import called, command
from ..support.runs import SMALL

pytestmark = pytest.mark.process


@pytest.mark.parametrize("ranks", [[], ["--cpu-ranks", 2, "--parallel", "towers"]], ids=["one", "two"])
def test_a_dry_run_goes_through_everything_and_leaves_nothing(dozen, tmp_path, ranks):
    done = command("alextrain", "run", dozen, *SMALL, "--dry-run", *ranks, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})

    assert done.returncode == 0, done.stderr
    assert "dry run: all is well. One step, checkpoint, evaluation and report took" in done.stderr
    assert "GB of memory on rank 0. The run is 95 epochs of 12 steps" in done.stderr
    assert not [path.name for path in tmp_path.iterdir() if not path.name.startswith("torchelastic_")]  # torch's own, of its launcher


def test_a_dry_run_finds_what_is_wrong(dozen, tmp_path):
    done = called("alextrain", "run", dozen, *SMALL, "--dry-run", "--crop", 73, cwd=tmp_path)
    both = called("alextrain", "run", dozen, "--dry-run", "--resume", cwd=tmp_path)

    assert (done.returncode, "crop 73 does not fit" in done.stderr) == (1, True)
    assert (both.returncode, "cannot be combined with --resume" in both.stderr) == (2, True)
