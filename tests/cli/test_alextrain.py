"""`alextrain` as a user runs it: wrong use, and the whole path on a GPU."""

import json

import pytest
import torch

from ..support.commands import TINY, called, command
from ..support.runs import rows


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("run", "nowhere"), 1, "Error: no nowhere/manifest.json"),
        (("run", "DATA", "--batch-size", "131"), 1, "130 training records, fewer than one batch of 131"),
        (("run", "DATA", "--set", "lrr=1"), 2, "no setting lrr; there are preset, width"),
        (("run", "DATA", "--set", "lr=fast"), 2, "lr must be a number, got 'fast'"),
        (("run", "DATA", "--lr", "0"), 2, "lr must be above 0"),
        (("run", "DATA", "--batch-size", "13", "--cpu-ranks", "2", "--crop", "64", "--parallel", "data"), 2, "divisible by world_size: 13 by 2"),
        (("run", "DATA", "--batch-size", "12"), 1, "crop 224 does not fit into the records of"),
        (("run", "DATA", "--crop", "32"), 2, "crop 32 is too small for three poolings: at least 64 pixels"),
        (("run", "DATA", "--set", "preset=[1]"), 2, "preset must be one of source, paper, one-gpu, caffe, owt, cifar, cifar-2012; got [1]"),
        (("run", "DATA", "--set", "drops=2"), 2, "drops are shares of the run"),
        (("run", "DATA", "--set", "threads=100000"), 2, "threads must be 1..1024"),
        (("run", "DATA", "--cpu-ranks", "2", "--gpus", "1"), 2, "cannot be combined"),
        (("run", "DATA", "--resume", "--out", "nothing"), 1, "holds no run (no config.toml)"),
        (("eval", "--checkpoint", "nowhere", "--data", "DATA"), 1, "no checkpoint nowhere"),
        (
            ("run", "DATA", *TINY, "--device", "gpu"),
            1,
            'Error: device "gpu" needs an NVIDIA GPU with its driver, and there is none on this machine: use device "cpu"\n',
        ),
    ],
    ids=str,
)
def test_wrong_use_of_alextrain_is_one_clear_message(data, tmp_path, arguments, code, message):
    if "gpu" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = called("alextrain", *(str(data) if word == "DATA" else word for word in arguments), cwd=tmp_path)

    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.process
@pytest.mark.gpu
@pytest.mark.parametrize("speed", [(), ("--precision", "bfloat16"), ("--precision", "bfloat16", "--set", "compile=true")], ids=str)
def test_a_run_on_the_gpu_resumes_to_the_same_weights_and_is_evaluated(data, tmp_path, speed):
    """The whole path on the device: decode, train, checkpoint, resume, ten views; again to the last bit."""
    options = ("alextrain", "run", data, "--device", "gpu", *TINY, *speed, "--out")
    runs = [
        command(*options, tmp_path / "whole", "--steps", "15"),
        command(*options, tmp_path / "parts", "--steps", "4"),
        command("alextrain", "run", data, "--out", tmp_path / "parts", "--device", "gpu", "--steps", "15", "--resume"),
    ]
    assert [run.returncode for run in runs] == [0, 0, 0], "".join(run.stderr for run in runs)
    value = json.loads(command("alextrain", "eval", "--checkpoint", tmp_path / "parts", "--data", data, "--device", "gpu", "--json").stdout)
    one, other = (torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("whole", "parts"))

    assert [row["step"] for row in rows(tmp_path / "parts", "step")] == list(range(1, 16))
    assert value["count"] == 20
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows(tmp_path / "whole", "start")[0]["device"] == torch.cuda.get_device_name()
