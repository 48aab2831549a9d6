"""The commands as a user runs them: whole processes, real files."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import click
import pytest
import torch
from alexprep.cli.alexprep import main as prep
from alexprep.cli.alextrain import main as train
from alexprep.experiment.config import RunConfig, resolve, resume

from ..support.commands import TINY, called, command
from ..support.images import make_images
from ..support.shards import damage, make_shards


@pytest.fixture(scope="module")
def data(shards):
    """64-pixel shards, on which a tiny network trains in a second."""
    return shards / "jpeg"


def rows(run, event):
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if row["event"] == event]


def without_times(step_rows):
    return [{name: value for name, value in row.items() if name not in ("images_per_s", "wait_share", "batches_ready")} for row in step_rows]


@pytest.mark.parametrize("name", ["alexprep", "alextrain"])
def test_help_answers_at_once_and_imports_nothing_heavy(name):
    module = {"alexprep": "alexprep.cli.alexprep", "alextrain": "alexprep.cli.alextrain"}[name]
    heavy = {"torch", "nvidia", "pyarrow", "numpy", "cv2", "PIL", "tqdm", "matplotlib"}
    code = f"import sys\nfrom {module} import main\ntry: main(['--help'])\nexcept SystemExit: print('heavy:', sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "Usage:" in run.stdout
    assert run.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize(("name", "group"), [("alexprep", prep), ("alextrain", train)])
def test_every_command_has_help(name, group):
    for sub in group.commands.values():
        assert sub.help, sub.name
        for parameter in sub.params:
            assert isinstance(parameter, click.Argument) or parameter.help, (name, sub.name, parameter.name)


def test_shard_prints_its_result_as_json_and_nothing_else_on_stdout(images, tmp_path):
    run = command("alexprep", "shard", "--src", images, "--out", tmp_path / "out", "--size", "32", "--json")
    value = json.loads(run.stdout)

    assert run.returncode == 0
    assert value["out"] == str(tmp_path / "out")
    assert set(value["splits"]) == {"train", "val"}
    assert value["splits"]["train"] == {"records": 130, "shards": 2, "quarantined": 0, "bytes": value["splits"]["train"]["bytes"]}
    assert value["splits"]["train"]["bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").glob("train-*.arrow"))
    assert value["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("shard", "--src", "nowhere"), 1, "Error: no folder nowhere: expected one with train/<class>/<image>"),
        (("shard", "--src", "."), 2, "--out shards lies inside --src ."),
        (("shard", "--src", ".", "--out", "../x", "--size", "4"), 2, "size must be 8..4096 pixels, got 4"),
        (("shard", "--src", "IMAGES", "--out", "x", "--max-bad", "nan"), 2, "max_bad is a share, 0..1; got nan"),
        (("shard", "--src", ".", "--out", "../x", "--max-bad", "2"), 2, "2.0 is not in the range 0<=x<=1"),
        (("stats", "nowhere", "--pca"), 1, "Error: no nowhere/manifest.json: run alexprep shard first"),
        (("demo-data", "--out", "."), 1, "Error: . is already there"),
    ],
    ids=str,
)
def test_wrong_use_of_alexprep_is_one_clear_message(images, tmp_path, arguments, code, message):
    run = called("alexprep", *(images if argument == "IMAGES" else argument for argument in arguments), cwd=tmp_path)

    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not run.stdout


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


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x04cos\nsystem\n(S'touch owned'\ntR."], ids=["empty", "cut", "pickle"])
def test_a_strange_checkpoint_is_refused_and_not_executed(data, tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    run = called("alextrain", "eval", "--checkpoint", "x.pt", "--data", data, cwd=tmp_path)

    assert run.returncode == 1
    assert "x.pt is not a checkpoint of ours" in run.stderr
    assert not (tmp_path / "owned").exists()


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of three epochs, undisturbed, in one process."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run = called("alextrain", "run", data, "--out", folder, "--epochs", "3", *TINY)
    assert run.returncode == 0, run.stderr
    return folder, run


def test_a_run_leaves_checkpoints_metrics_and_a_report(finished):
    folder, run = finished
    steps = rows(folder, "step")

    assert [row["step"] for row in steps] == list(range(1, 31))
    assert {"event", "step", "epoch", "loss", "error", "lr", "images_per_s", "wait_share", "batches_ready"} == set(steps[0])
    assert [row["epoch"] for row in rows(folder, "eval")] == [1, 2, 3]
    assert [(row["views"], row["count"]) for row in rows(folder, "result")] == [(10, 20), (1, 20)]
    assert "ten views: top-1 error" in run.stdout
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["step"] == 30
    assert state["classes"] == ["ant", "bee"]
    assert (folder / "best.pt").is_file()


def test_the_report_is_one_self_contained_page(finished):
    folder, _ = finished
    page = (folder / "report.html").read_text()

    assert page.startswith("<!doctype html>")
    assert 'id="plots"' in page
    assert page.count('alt="its view in epoch') == 16  # four records, four epochs each
    assert "top-1 error" in page
    assert "batch_size" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)  # nothing is fetched
    assert len(page) < 2_000_000


def test_eval_says_what_the_run_said(finished, data):
    folder, _ = finished
    for views in ("10", "1"):
        value = json.loads(called("alextrain", "eval", "--checkpoint", folder, "--data", data, "--crops", views, "--json").stdout)
        logged = next(row for row in rows(folder, "result") if str(row["views"]) == views)

        assert value["crops"] == int(views)
        assert {name: value[name] for name in ("count", "top1_error", "top5_error")} == {n: logged[n] for n in ("count", "top1_error", "top5_error")}
        assert value["loss"] == pytest.approx(logged["loss"], rel=1e-5)


def test_eval_counts_every_image_once_on_three_ranks(finished, data):
    folder, _ = finished
    one, three = (
        json.loads(command("alextrain", "eval", "--checkpoint", folder / "best.pt", "--data", data, *ranks, "--json").stdout)
        for ranks in ((), ("--cpu-ranks", "3"))
    )

    assert three["count"] == one["count"] == 20
    assert three["top1_error"] == one["top1_error"]
    assert three["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_other_classes_are_refused(finished, tmp_path):
    make_shards(make_images(tmp_path / "src", {"train/ant": 9, "train/cow": 9}), tmp_path / "out", size=64)
    run = called("alextrain", "eval", "--checkpoint", finished[0], "--data", tmp_path / "out", "--split", "train")

    assert run.returncode == 1
    assert "other classes than the checkpoint was trained on (2 and 2; 'bee' against 'cow')" in run.stderr


@pytest.mark.parametrize("stop", [4, 10, 25])
def test_a_run_killed_mid_epoch_resumes_to_the_same_losses_and_weights(finished, data, tmp_path, stop):
    """kill -9 when step `stop` is logged; checkpoints every third step; then --resume."""
    folder, _ = finished
    arguments = ["alextrain", "run", str(data), "--out", str(tmp_path / "run"), "--epochs", "3", *TINY, "--set", "checkpoint_steps=3"]
    process = subprocess.Popen(
        [os.path.join(os.path.dirname(sys.executable), arguments[0]), *arguments[1:]], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    metrics, deadline = tmp_path / "run/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and f'"step": {stop},' in metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (tmp_path / "run/report.html").exists()
    run = command("alextrain", "run", data, "--out", tmp_path / "run", "--resume")

    assert run.returncode == 0, run.stderr
    assert without_times(rows(tmp_path / "run", "step")) == without_times(rows(folder, "step"))
    a, b = (torch.load(path / "last.pt", weights_only=True)["model"] for path in (folder, tmp_path / "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_folder_with_a_run_is_not_overwritten_and_keeps_its_settings(finished, data):
    folder, _ = finished
    again = called("alextrain", "run", data, "--out", folder, *TINY)
    changed = called("alextrain", "run", data, "--out", folder, "--resume", "--seed", "1", "--set", "width=0.1", "--lr", "0.5")

    assert again.returncode == 1
    assert "already holds a run: --resume continues it" in again.stderr
    assert changed.returncode == 2
    assert "a resumed run keeps its settings: width, seed cannot change (only lr, steps, until, on_bad, log_steps," in changed.stderr


def test_resuming_takes_no_other_settings_by_the_back_door_and_no_lost_checkpoint(finished, data, tmp_path):
    edited = shutil.copytree(finished[0], tmp_path / "edited")
    (edited / "config.toml").write_text((edited / "config.toml").read_text().replace("seed = 0", "seed = 7"))
    lost = shutil.copytree(finished[0], tmp_path / "lost")
    (lost / "last.pt").unlink()
    before = (lost / "metrics.jsonl").read_text()
    runs = [called("alextrain", "run", data, "--out", folder, "--resume") for folder in (edited, lost)]

    assert [run.returncode for run in runs] == [1, 1]
    assert "a resumed run keeps its settings: seed cannot change" in runs[0].stderr
    assert "last.pt is gone" in runs[1].stderr
    assert (lost / "metrics.jsonl").read_text() == before


def test_a_run_that_a_damaged_record_stopped_goes_on_with_on_bad_skip(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "shards")
    for record in (77, 78, 129):
        damage(copy, record, 200)
    options = (copy, *TINY, "--steps", "10", "--set", "checkpoint_steps=1", "--out", tmp_path / "run")
    stopped = called("alextrain", "run", *options)
    resumed = called("alextrain", "run", copy, "--out", tmp_path / "run", "--resume", "--on-bad", "skip")

    assert stopped.returncode == 1
    assert "Error: damaged records; alexprep repair makes their shards again:" in stopped.stderr
    assert resumed.returncode == 0, resumed.stderr
    assert [row["step"] for row in rows(tmp_path / "run", "step")] == list(range(1, 11))
    assert re.search(r"^warning: record (79|0) is given instead of a damaged one: record (77|78|129) \(train-", resumed.stderr, re.MULTILINE)


def test_rows_that_are_not_ours_do_not_spoil_the_report(finished, data, tmp_path):
    copy = shutil.copytree(finished[0], tmp_path / "copy")
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step"}\n{"event": ["a"]}\n{"event": "eval", "epoch": "x"}\n{"event": "result"}\n{"event": "step", "step": 9')
    run = called("alextrain", "report", copy, "--data", data)

    assert run.returncode == 0, run.stderr
    assert '"steps":[[1,1,30]]' in (copy / "report.html").read_text()


@pytest.mark.parametrize("preset", ["source", "paper"])
def test_two_ranks_train_to_the_weights_of_one(data, tmp_path, preset):
    """20 steps, 2 ranks of 6 against 1 of 12, dropout and all. They differ by the order of float32 sums alone: 2e-5 is allowed on
    weights of which the changes are a thousand times larger."""
    weights = []
    for ranks in ("1", "2"):
        out = tmp_path / ranks
        run = command("alextrain", "run", data, "--out", out, "--steps", "20", "--preset", preset, *TINY, "--cpu-ranks", ranks)
        assert run.returncode == 0, run.stderr
        weights.append(torch.load(out / "last.pt", weights_only=True)["model"])
    one, two = weights
    from alexprep.model.networks.alexnet import AlexNet

    start = AlexNet(preset, classes=2, width=0.05, crop=64).state_dict()
    moved = max((one[name] - start[name]).abs().max().item() for name in one)

    assert moved > 0.02
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 2e-5
    losses = [[row["loss"] for row in rows(tmp_path / ranks, "step")] for ranks in ("1", "2")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_torchrun_itself_can_start_the_ranks(data, tmp_path):
    run = command(
        "torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "alextrain",
        "run", data, "--out", tmp_path / "run", "--steps", "3", *TINY, env={"PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"},
    )  # fmt: skip

    assert run.returncode == 0, run.stderr
    assert rows(tmp_path / "run", "start")[0]["ranks"] == 2


def test_a_rank_s_failure_is_the_command_s(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.toml").touch()
    run = command("alextrain", "run", data, "--out", tmp_path / "run", *TINY, "--cpu-ranks", "2", timeout=60)

    assert run.returncode == 1
    assert "already holds a run" in run.stderr
    assert "Traceback" not in run.stderr


def test_gpus_on_a_machine_without_one_is_a_clear_line_and_one_cpu_process(data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run = command("alextrain", "run", data, "--out", tmp_path / "run", "--steps", "2", *TINY, "--gpus", "2")

    assert run.returncode == 0, run.stderr
    assert "there is none on this machine. Going on in one process on the CPU" in run.stderr
    assert rows(tmp_path / "run", "start")[0]["ranks"] == 1


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


def test_the_three_lines_work_as_they_stand(tmp_path):
    """In a folder with imagenet/: shards/, shards/stats.json, runs/1/."""
    make_images(tmp_path / "imagenet", {"train/a": 12, "train/b": 12, "val/a": 4, "val/b": 4})
    first = command("alexprep", "shard", "--src", "imagenet/", cwd=tmp_path)
    second = command("alexprep", "stats", "--pca", cwd=tmp_path)
    third = command("alextrain", "run", "--gpus", "2", "--steps", "1", "--batch-size", "4", "--width", "0.1", cwd=tmp_path)

    assert [run.returncode for run in (first, second, third)] == [0, 0, 0], third.stderr
    assert (tmp_path / "shards/stats.json").is_file()
    assert (tmp_path / "runs/1/report.html").is_file()


def test_a_run_s_config_file_gives_its_settings_again(tmp_path):
    settings = resolve("paper", None, {"lr": 0.02, "epochs": None}, ("width=0.5", "colour=0"))
    (tmp_path / "config.toml").write_text(settings.to_toml())

    assert settings == RunConfig().changed(preset="paper", width=0.5, epochs=90, lr=0.02, schedule="plateau", mean="pixel", colour=0.0, divide=1.0)
    assert resolve(None, tmp_path / "config.toml", {}, ()) == settings


def test_a_single_drop_is_a_number_and_several_are_a_list():
    texts = ("drops=0.5", "drops=[0.5, 0.75]", "drops=0.1,0.2")

    assert [resolve(None, None, {}, (text,)).trainer.drop_shares() for text in texts] == [[0.5], [0.5, 0.75], [0.1, 0.2]]


def test_a_resumed_run_may_learn_more_slowly_and_end_elsewhere():
    stored = RunConfig().changed(width=0.5)

    assert resume(stored, {"lr": 0.001, "steps": 7, "width": 0.5}) == RunConfig().changed(width=0.5, lr=0.001, steps=7)
    with pytest.raises(ValueError, match="seed cannot change"):
        resume(stored, {"seed": 1})


def test_options_go_before_the_file_and_set_before_options(tmp_path):
    (tmp_path / "c.toml").write_text('preset = "paper"\nlr = 0.5\nseed = 3\n')
    settings = resolve(None, tmp_path / "c.toml", {"lr": 0.25, "seed": 4}, ("seed=5",))

    assert (settings.data.mean, settings.trainer.lr, settings.data.seed) == ("pixel", 0.25, 5)


def test_the_environment_names_the_shards(data, tmp_path):
    shutil.copytree(data, tmp_path / "elsewhere")  # stats writes into it
    run = called("alexprep", "stats", "--json", cwd=tmp_path, env={"ALEXPREP_DATA": str(tmp_path / "elsewhere")})

    assert json.loads(run.stdout)["images"] == 130


def test_the_version_is_the_package_s():
    assert "0.1.0" in called("alexprep", "--version").stdout


def test_demo_data_has_imagenets_odd_files(tmp_path):
    from PIL import Image

    run = called("alexprep", "demo-data", "--out", tmp_path / "d", "--train", "8", "--val", "4")
    assert run.returncode == 0, run.stderr
    kinds = set()
    for path in (tmp_path / "d").rglob("*.*"):
        try:
            with Image.open(path) as image:
                kinds.add((image.format, image.mode))
                kinds |= {"rotated"} if image.getexif().get(0x0112) == 6 else set()
                kinds |= {"tiny"} if min(image.size) < 64 else set()
                image.load()
        except OSError as error:
            kinds.add("truncated" if "truncated" in str(error) else "text")

    assert kinds == {("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), "rotated", "tiny", "truncated", "text"}
    assert len(list((tmp_path / "d/train").iterdir())) == 10
    assert not list(tmp_path.glob(".*"))
