"""A trained network for other programs: what is written says what torch says, and damage is named."""

import json
import shutil

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from alexprep.experiment.exporting.export import _deployed
from alexprep.experiment.measuring.evaluate import Trained
from alexprep.model.distributed import Ranks
from alexprep.model.errors import TrainingError
from alexprep.model.networks.inference import load
from alexprep.pipeline import Loader
from safetensors import safe_open

from ...support.commands import TINY, called, command


@pytest.fixture
def trained(run):
    return Trained.load(run / "run", Ranks())


def exported(run, out, kind, *arguments):
    by = called if kind in ("safetensors", "hub-folder") else command  # torch's exporters would see through the checks of shapes
    done = by("alextrain", "export", run / "run", "--to", kind, "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def views(run):
    """The centre views of the val split as they are before the mean is subtracted, and what the trainer's own network says of them."""
    trained = Trained.load(run / "run", Ranks())
    crop = trained.settings.data.crop
    plain = next(iter(Loader(run / "shards", split="val", batch_size=17, crop=crop, mean="none")))
    own = torch.cat([batch.images for batch in trained.loader(run / "shards", "val", 1, Ranks(), {})])
    with torch.inference_mode():
        return plain.images, trained.model(own).softmax(1)


@pytest.mark.process
def test_onnx_gives_the_probabilities_of_the_trainers_own_network(run, tmp_path):
    exported(run, tmp_path / "model.onnx", "onnx")
    pixels, expected = views(run)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])

    assert np.abs(session.run(None, {"pixels": pixels.numpy()})[0] - expected.numpy()).max() < 1e-5
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["ant", "bee"]
    assert "RGB, 0 to 255" in facts["preprocessing"]
    assert (tmp_path / "model.onnx.md").read_text() == facts["preprocessing"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.md"]


@pytest.mark.process
def test_torch_export_and_the_hub_folder_give_them_too(run, tmp_path):
    exported(run, tmp_path / "model.pt2", "torch-export")
    exported(run, tmp_path / "hub", "hub-folder")
    pixels, expected = views(run)
    program = torch.export.load(tmp_path / "model.pt2").module()
    model, config = load(tmp_path / "hub")
    with torch.inference_mode():
        assert torch.allclose(program(pixels), expected, atol=1e-5)
        assert torch.allclose(model(pixels), expected, atol=1e-5)
    assert config["id2label"] == {"0": "ant", "1": "bee"}
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: alexprep\n")
    assert "| ten views averaged | 17 |" in card
    assert "| crop | 64 |" in card


def test_safetensors_hold_the_weights_and_what_builds_the_network(run, tmp_path, trained):
    exported(run, tmp_path / "w.safetensors", "safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert json.loads(file.metadata()["alexprep"])["architecture"]["preset"] == "source"
        assert torch.equal(file.get_tensor("network.conv1.weight"), trained.model.conv1.weight)
        assert torch.equal(file.get_tensor("mean"), _deployed(trained).mean)


def test_what_is_there_is_not_overwritten_and_damage_is_named(run, tmp_path):
    exported(run, tmp_path / "hub", "hub-folder")
    again = called("alextrain", "export", run / "run", "--to", "hub-folder", "--out", tmp_path / "hub")
    assert again.returncode == 1
    assert "is already there" in again.stderr

    (tmp_path / "own.md").write_text("mine")
    beside = called("alextrain", "export", run / "run", "--to", "safetensors", "--out", tmp_path / "own")
    assert beside.returncode == 1
    assert (tmp_path / "own.md").read_text() == "mine"
    assert not (tmp_path / "own").exists()

    for name, content in (("config.json", b"{}"), ("config.json", b'{"format": 9}'), ("model.safetensors", b"no")):
        shutil.copytree(tmp_path / "hub", tmp_path / "copy")
        (tmp_path / "copy" / name).write_bytes(content)
        with pytest.raises(TrainingError, match=r"damaged|format 9"):
            load(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.process
@pytest.mark.parametrize(
    "options",
    [("--preset", "paper", "--set", "schedule=fixed"), ("--set", "mean=channel"), ("--set", "mean=none"), ("--model", "mine:tiny")],
    ids=str,
)
def test_what_is_subtracted_is_in_the_network_whatever_it_is(run, tmp_path, options):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef tiny(classes):\n    return nn.Sequential(nn.Conv2d(3, classes, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    by = command if "--model" in options else called  # somebody's own network is no AlexNet, as the checks of shapes would have it
    done = by("alextrain", "run", run / "shards", "--out", "run", "--steps", "1", *TINY, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = options if "--model" in options else ()
    assert command("alextrain", "export", "run", "--to", "onnx", *own, cwd=tmp_path).returncode == 0
    assert (
        by(
            "alextrain", "eval", "--checkpoint", "run", "--data", run / "shards", "--crops", "1", "--predictions", "p.parquet", *own, cwd=tmp_path
        ).returncode
        == 0
    )
    session = onnxruntime.InferenceSession(tmp_path / "run" / "model.onnx", providers=["CPUExecutionProvider"])
    made = session.run(None, {"pixels": next(iter(Loader(run / "shards", split="val", batch_size=17, crop=64, mean="none"))).images.numpy()})[0]
    for row, p in zip(pq.read_table(tmp_path / "p.parquet").to_pylist(), made, strict=True):
        assert p[row["label"]] == pytest.approx(row["true_p"], abs=1e-5)
    image = min((run / "images" / "val").rglob("*.JPEG"))
    assert by("alextrain", "predict", "--checkpoint", "run", image, *own, cwd=tmp_path).returncode == 0


@pytest.mark.process
def test_a_card_tells_of_its_own_checkpoint_only(run, tmp_path):
    whole = called("alextrain", "run", run / "shards", "--out", tmp_path / "run", "--epochs", "2", "--set", "keep=3", *TINY)
    assert whole.returncode == 0, whole.stderr
    early = min((tmp_path / "run").glob("step-*.pt"), key=lambda path: int(path.stem.removeprefix("step-")))
    assert called("alextrain", "export", early, "--to", "hub-folder", "--out", tmp_path / "hub").returncode == 0
    assert "Not measured" in (tmp_path / "hub" / "README.md").read_text()
