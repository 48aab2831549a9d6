"""Somebody's own network in place of AlexNet."""

import json
from importlib.util import find_spec

import pytest
from alexprep.experiment.checkpoint import load_checkpoint

from ..support.commands import command
from ..support.runs import NETWORK, losses, rows, run

pytestmark = pytest.mark.process


@pytest.mark.parametrize("ranks", [[], ["--cpu-ranks", 2]], ids=["one", "two"])
def test_somebody_s_own_network_is_trained_resumed_and_evaluated(data, tmp_path, ranks):
    (tmp_path / "mine.py").write_text(NETWORK)
    options = ["--model", "mine:tiny", *ranks]
    run(data, tmp_path / "whole", *options, by=command, cwd=tmp_path)
    run(data, tmp_path / "run", *options, "--steps", 4, by=command, cwd=tmp_path)
    resumed = command("alextrain", "run", data, "--resume", "--out", tmp_path / "run", "--steps", 0, *options, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    weights = load_checkpoint(tmp_path / "run")["model"]
    evaluated = command(
        "alextrain", "eval", "--checkpoint", tmp_path / "run", "--data", data, "--crops", 1, "--model", "mine:tiny", "--json", cwd=tmp_path
    )

    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert set(weights) == {
        *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked", "5.1.weight", "5.1.bias")
    }
    assert int(weights["1.num_batches_tracked"]) == 7
    assert json.loads(evaluated.stdout)["top1_error"] == rows(tmp_path / "run", "eval")[-1]["top1_error"]
    assert "the first layer's kernels" in (tmp_path / "run" / "report.html").read_text()


def test_nobody_s_code_runs_on_a_file_s_word(data, tmp_path):
    """A checkpoint or a config of a stranger's may name any function; it is called only if the user names it too."""
    (tmp_path / "mine.py").write_text(NETWORK)
    run(data, tmp_path / "run", "--model", "mine:tiny", "--steps", 1, by=command, cwd=tmp_path)
    config = tmp_path / "run" / "config.toml"
    tries = [
        command("alextrain", "eval", "--checkpoint", tmp_path / "run", "--data", data, cwd=tmp_path),
        command("alextrain", "run", data, "--config", config, "--out", tmp_path / "b", cwd=tmp_path),
        command("alextrain", "run", data, "--resume", "--out", tmp_path / "run", cwd=tmp_path),
    ]

    for done in tries:
        assert (done.returncode, "if you trust its code" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "b").exists()


HUBS = {
    "timm": "def hub(classes):\n    import timm\n    return timm.create_model('resnet18', num_classes=classes)\n",
    "torchvision": "def hub(classes):\n    from torchvision.models import resnet18\n    return resnet18(num_classes=classes)\n",
}


@pytest.mark.parametrize("package", HUBS)
def test_a_network_of_a_hub_is_trained_as_documented(data, tmp_path, package):
    if find_spec("timm") is None:  # torchvision alone may be there and not fit this torch
        pytest.skip("timm and torchvision are not installed here: make test-examples")
    (tmp_path / "mine.py").write_text(HUBS[package])
    run(data, tmp_path / "run", "--model", "mine:hub", "--set", "mean=channel", "--set", "divide=57", "--steps", 2, by=command, cwd=tmp_path)

    assert len(losses(tmp_path / "run")) == 2
