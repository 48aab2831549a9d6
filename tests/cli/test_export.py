"""`alextrain export`."""

import pytest
import torch

from ..support.commands import called

pytestmark = pytest.mark.process


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
