"""What people expect of a trainer beside training: their own network, noise instead of data, half precision, traces, loggers, many machines."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from alexprep.experiment.checkpoint import load_checkpoint

from ..support.commands import called, command
from ..support.shards import training_shards
from .test_safety import losses, rows

SMALL = ["--width", 0.0625, "--crop", 64, "--batch-size", 16, "--seed", 4, "--set", "log_steps=1"]
NETWORK = """
from torch import nn

def tiny(classes):
    head = nn.Sequential(nn.Dropout(), nn.Linear(8, classes))
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

def number(classes):
    return classes

def few(classes):
    return tiny(classes=1)

def text(classes):
    return nn.Linear(7, classes)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven steps an epoch."""
    return training_shards(tmp_path_factory.mktemp("options"), 60)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    assert called("alextrain", "run", data, *SMALL, "--epochs", 1, "--out", out).returncode == 0
    return out


def run(data, out, *arguments, by=called, **options):
    done = by("alextrain", "run", data, *SMALL, "--epochs", 1, "--out", out, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return done


def test_a_batch_in_parts_is_the_same_step(data, plain, tmp_path):
    """Three parts of sixteen images, the last smaller; on two ranks gradients are still averaged once."""
    run(data, tmp_path / "one", "--set", "accumulate=3")
    run(data, tmp_path / "two", "--set", "accumulate=3", "--cpu-ranks", 2, "--parallel", "data", by=command)

    for out in (tmp_path / "one", tmp_path / "two"):
        assert list(losses(out).values()) == pytest.approx(list(losses(plain).values()), rel=1e-4)


def test_half_precision_trains_nearly_the_same(data, plain, tmp_path):
    run(data, tmp_path / "run", "--precision", "bfloat16")
    ours, theirs = losses(tmp_path / "run"), losses(plain)

    assert ours != theirs
    assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=0.02)
    assert all(value.dtype == torch.float32 for value in load_checkpoint(tmp_path / "run")["model"].values())


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_trains_the_same(data, plain, tmp_path):
    run(data, tmp_path / "run", "--compile", by=command)

    assert list(losses(tmp_path / "run").values()) == pytest.approx(list(losses(plain).values()), rel=1e-3)


def test_half_gradients_between_ranks_train_nearly_the_same(data, plain, tmp_path):
    run(data, tmp_path / "run", "--set", "gradients=bfloat16", "--cpu-ranks", 2, "--parallel", "data", by=command)

    assert list(losses(tmp_path / "run").values()) == pytest.approx(list(losses(plain).values()), rel=0.02)


def test_noise_from_memory_stands_for_imagenet(tmp_path):
    done = run("nowhere", tmp_path / "run", "--data", "synthetic", "--steps", 3, "--cpu-ranks", 2, by=command)
    start = rows(tmp_path / "run", "start")[0]

    assert (start["data"], start["classes"]) == ("--data synthetic", 1000)
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3]
    assert done.stdout.strip() == str(tmp_path / "run")
    again = called("alextrain", "run", "--data", "synthetic", "--resume", "--steps", 5, "--out", tmp_path / "run")
    assert again.returncode == 0, again.stderr
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("ranks", [[], ["--cpu-ranks", 2]], ids=["one", "two"])
def test_somebody_s_own_network_is_trained_resumed_and_evaluated(data, tmp_path, ranks):
    (tmp_path / "mine.py").write_text(NETWORK)
    options, by = ["--model", "mine:tiny", *ranks], command if ranks else called
    run(data, tmp_path / "whole", *options, by=by, cwd=tmp_path)
    run(data, tmp_path / "run", *options, "--steps", 4, by=by, cwd=tmp_path)
    resumed = by("alextrain", "run", data, "--resume", "--out", tmp_path / "run", "--steps", 0, *options, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    weights = load_checkpoint(tmp_path / "run")["model"]
    evaluated = called(
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
    run(data, tmp_path / "run", "--model", "mine:tiny", "--steps", 1, cwd=tmp_path)
    config = tmp_path / "run" / "config.toml"
    tries = [
        called("alextrain", "eval", "--checkpoint", tmp_path / "run", "--data", data, cwd=tmp_path),
        called("alextrain", "run", data, "--config", config, "--out", tmp_path / "b", cwd=tmp_path),
        called("alextrain", "run", data, "--resume", "--out", tmp_path / "run", cwd=tmp_path),
    ]

    for done in tries:
        assert (done.returncode, "if you trust what it runs" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "mine"], 2, "model must be package:function"),
        (["--model", "nowhere:tiny"], 1, "--model nowhere:tiny: No module named 'nowhere'"),
        (["--model", "mine:huge"], 1, "has no attribute 'huge'"),
        (["--model", "mine:number"], 1, "returned a int instead of a torch.nn.Module"),
        (["--model", "mine:few"], 1, "gives [2, 1] for two images instead of [2,2]"),
        (["--model", "os:getcwd"], 1, "--model os:getcwd: "),
        (["--model", "mine:text"], 1, "does not take images of [2,3,64,64]"),
        (["--epochs", 10**400], 2, "epochs must be 1..1,000,000"),
        (["--set", "eval_batch_size=99999999999"], 2, "eval_batch_size must be"),
        (["--set", "batch_size=0"], 2, "batch_size must be 1.."),
        (["--set", "norm=1"], 2, "norm must be true or false, got 1"),
        (["--model", "mine:tiny", "--parallel", "towers"], 1, "any other network is trained with data"),
        (["--set", "loggers=carrierpigeon"], 2, "loggers must be of tensorboard, wandb, trackio; got carrierpigeon"),
        (["--set", "loggers=trackio"], 1, "pip install trackio"),
        (["--compile", "--parallel", "towers", "--cpu-ranks", 2], 1, "--compile does not see through the exchanges of --parallel towers"),
        (["--set", "hang_seconds=1e11"], 2, "hang_seconds must be"),
        (["--set", "ema=1.5"], 2, "ema must be at least 0 and below 1"),
        (["--set", "accumulate=17"], 2, "accumulate must be at most the batch size, 16"),
        (["--set", "precision=float8"], 2, "precision must be one of float32, bfloat16"),
        (["--parallel", "towers", "--cpu-ranks", 3, "--batch-size", 18], 1, "two towers need an even number of ranks, not 3"),
        (["--parallel", "towers", "--cpu-ranks", 2, "--preset", "owt"], 1, "this network has one tower"),
        (["--set", "exchange=false", "--preset", "owt"], 2, "owt has one tower"),
        (["--cpu-ranks", 2, "--batch-size", 17, "--parallel", "data"], 2, "17 by 2"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said_before_the_first_step(data, tmp_path, arguments, code, message):
    if "trackio" in str(arguments) and find_spec("trackio"):
        pytest.skip("it is installed here")
    (tmp_path / "mine.py").write_text(NETWORK)
    done = called("alextrain", "run", data, *SMALL, *arguments, "--out", tmp_path / "run", cwd=tmp_path)

    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_profile_is_a_trace_of_three_steps(data, tmp_path):
    done = run(data, tmp_path / "run", "--profile", by=command)
    events = json.loads((tmp_path / "run" / "profile.json").read_text())["traceEvents"]

    assert "profile of three steps" in done.stderr
    assert sum(event.get("name", "").startswith("ProfilerStep") for event in events) == 3
    assert any("convolution" in event.get("name", "") for event in events)


def test_the_mean_of_the_weights_is_what_is_evaluated(data, tmp_path):
    run(data, tmp_path / "run", "--set", "ema=0.5")
    state = load_checkpoint(tmp_path / "run")
    evaluated = called("alextrain", "eval", "--checkpoint", tmp_path / "run", "--data", data, "--crops", 1, "--json")

    assert not torch.equal(state["averages"]["fc8.weight"], state["model"]["fc8.weight"])
    assert json.loads(evaluated.stdout)["loss"] == pytest.approx(rows(tmp_path / "run", "eval")[-1]["loss"], rel=1e-12)


def test_deterministic_runs_are_the_same_twice(data, tmp_path):
    for name in ("a", "b"):
        run(data, tmp_path / name, "--deterministic", "--steps", 3, by=command)

    assert losses(tmp_path / "a") == losses(tmp_path / "b")


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


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_metrics_reach_the_logger(data, tmp_path, name):
    """Those that are installed: make test-examples has all of them."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed here: make test-examples")
    environment = {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_SILENT": "true"}
    run(data, tmp_path / "run", "--set", f"loggers={name}", "--steps", 3, by=command, env=environment)
    places = {"tensorboard": "run/tensorboard/events*", "wandb": "run/wandb/offline-run-*/run-*.wandb", "trackio": "trackio/*.db"}
    found = [path for path in tmp_path.glob(places[name]) if path.stat().st_size > 100]

    assert found
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        assert [event.value for event in events.Scalars("step/loss")] == pytest.approx(list(losses(tmp_path / "run").values()))


def test_describe_prints_the_layers_of_the_paper():
    told = called("alextrain", "describe", "--preset", "paper").stdout
    found = json.loads(called("alextrain", "describe", "--json").stdout)
    conv3 = next(line.split() for line in told.splitlines() if line.startswith("conv3"))

    assert conv3 == ["conv3", "3x3x256", "/", "1", "384x13x13", "192x13x13", "885,120", "149,520,384", "259,584"]
    assert re.search(r"^all\s+60,965,224\s+724,406,816", told, re.MULTILINE)
    assert (found["parameters"], found["multiply_adds"], found["towers"]) == (60_965_224, 724_406_816, 2)
    assert [row["layer"] for row in found["layers"]][:4] == ["conv1", "norm1", "conv2", "norm2"]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_machines_train_as_one(data, plain, tmp_path):
    """The documented lines of torchrun, one launcher a machine, over loopback."""
    port, out = free_port(), tmp_path / "run"
    launchers = []
    for node in range(2):
        program = [Path(sys.executable).parent / "torchrun", "--nnodes", 2, "--nproc-per-node", 1, "--node-rank", node]
        program += ["--master-addr", "127.0.0.1", "--master-port", port, "--no-python", Path(sys.executable).parent / "alextrain"]
        program += ["run", data, *SMALL, "--epochs", 1, "--parallel", "data", "--out", out]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        launchers.append(subprocess.Popen(list(map(str, program)), env=environment, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL))
    told = [launcher.communicate(timeout=200)[1] for launcher in launchers]

    assert [launcher.returncode for launcher in launchers] == [0, 0], told
    assert list(losses(out).values()) == pytest.approx(list(losses(plain).values()), rel=1e-3)


def test_a_run_does_not_import_torch_s_compiler(data, tmp_path):
    """Two seconds of every start of every rank."""
    code = "import sys; from alexprep.cli.alextrain import main; main(sys.argv[1:], standalone_mode=False); print('torch._dynamo' in sys.modules)"
    arguments = ["run", data, *SMALL, "--steps", 1, "--out", tmp_path / "run"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)

    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_the_weight_decay_is_the_setting_s(data, plain, tmp_path):
    """It pulls from the second step on: the first loss is that of the same initial weights."""
    run(data, tmp_path / "none", "--set", "weight_decay=0")
    with_, without = losses(plain), losses(tmp_path / "none")
    assert with_[1] == without[1]
    assert with_ != without


def test_a_run_ends_with_the_epoch_that_is_good_enough(data, tmp_path):
    run(data, tmp_path / "run", "--epochs", 5, "--set", "until=0.999")
    assert [row["epoch"] for row in rows(tmp_path / "run", "eval")] == [1]
    assert rows(tmp_path / "run", "eval")[0]["train_error"] <= 0.999
    done = called("alextrain", "run", data, "--out", tmp_path / "run", "--resume", "--set", "until=0")
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in rows(tmp_path / "run", "eval")] == [1, 2, 3, 4, 5]
