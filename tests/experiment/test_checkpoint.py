"""Checkpoints: damage is noticed, nothing in them is executed, and a full disk is a warning."""

import pytest
from alexprep.experiment.checkpoint import Saver
from alexprep.pipeline import DataError

from ..support.commands import called


def test_a_flipped_bit_in_a_checkpoint_is_noticed(few, finished, tmp_path):
    whole = (finished[0] / "last.pt").read_bytes()
    path = tmp_path / "flipped.pt"
    path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    done = called("alextrain", "eval", "--checkpoint", path, "--data", few)

    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "flipped.pt is not a checkpoint of ours, or it is damaged: the checksum of its part" in done.stderr


def test_a_checkpoint_that_can_be_written_later_is_and_only_the_last_failure_counts():
    def fails():
        raise DataError("cannot write x: No space left on device")

    warnings, written = [], []
    saver = Saver(warnings.append)
    saver.submit(fails)
    saver.submit(lambda: written.append(1))
    saver.close()
    assert written == [1]
    assert warnings == ["cannot write x: No space left on device"]
    saver = Saver(warnings.append)
    saver.submit(fails)
    with pytest.raises(DataError, match="No space left"):
        saver.close()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x04cos\nsystem\n(S'touch owned'\ntR."], ids=["empty", "cut", "pickle"])
def test_a_strange_checkpoint_is_refused_and_not_executed(few, tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    run = called("alextrain", "eval", "--checkpoint", "x.pt", "--data", few, cwd=tmp_path)

    assert run.returncode == 1
    assert "x.pt is not a checkpoint of ours" in run.stderr
    assert not (tmp_path / "owned").exists()
