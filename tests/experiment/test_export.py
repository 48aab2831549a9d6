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
from alexprep.model.networks.alexnet import parameters
from alexprep.model.networks.cifar import FourLayers
from alexprep.model.networks.inference import load
from alexprep.pipeline import Loader
from safetensors import safe_open

from ..support.commands import TINY, called, command
from ..support.images import jpeg, picture
from ..support.shards import training_shards


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("handover")
    data = training_shards(root, 40)
    done = called("alextrain", "run", data, "--out", root / "run", "--epochs", "1", *TINY)
    assert done.returncode == 0, done.stderr
    return root


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


def test_the_triton_repository_is_one_that_triton_can_parse(run, tmp_path):
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    exported(run, tmp_path / "triton", "triton")
    configs = {
        path.parent.name: text_format.Parse(path.read_text(), model_config_pb2.ModelConfig()) for path in tmp_path.glob("triton/*/config.pbtxt")
    }
    assert set(configs) == {"preprocess", "network", "classify"}
    assert all(config.name == name for name, config in configs.items())
    tensors = {"image": configs["classify"].input[0], "probabilities": configs["classify"].output[0]}
    for step in configs["classify"].ensemble_scheduling.step:  # what an ensemble hands on must be what its steps take and give
        model = configs[step.model_name]
        for name, outer in step.input_map.items():
            wanted = next(one for one in model.input if one.name == name)
            assert (wanted.data_type, list(wanted.dims)) == (tensors[outer].data_type, list(tensors[outer].dims))
        tensors |= {outer: next(one for one in model.output if one.name == name) for name, outer in step.output_map.items()}
    assert (tmp_path / "triton/preprocess/1/model.dali").stat().st_size > 100
    assert (tmp_path / "triton/network/1/model.onnx").stat().st_size > 1000


@pytest.mark.parametrize("height, width", [(375, 500), (500, 334), (200, 300), (256, 256)])
def test_triton_s_preprocessing_is_ours_but_for_the_filter(height, width):
    from alexprep.pipeline.batches.dali_engine import serving
    from alexprep.pipeline.imaging.codec import square
    from nvidia import dali

    data = jpeg(picture(5, height, width))
    pipeline = dali.Pipeline.deserialize(serving(256, 224, "cpu"), batch_size=8, num_threads=1, device_id=None)
    pipeline.build()
    pipeline.feed_input("image", [np.frombuffer(data, np.uint8)])
    (made,) = pipeline.run()
    ours = square(data, 256).pixels[16:240, 16:240].transpose(2, 0, 1).astype(np.float32)
    assert np.abs(np.asarray(made.at(0)) - ours).mean() < 1  # grey levels: another filter, not another place


def test_the_gpu_s_serving_graph_is_in_the_registry():
    from alexprep.pipeline.batches.dali_engine import serving

    assert len(serving(256, 224, "gpu")) > 100


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


@pytest.mark.parametrize(
    "options",
    [("--preset", "paper", "--set", "schedule=fixed"), ("--set", "mean=channel"), ("--set", "mean=none"), ("--model", "mine:tiny")],
    ids=str,
)
def test_what_is_subtracted_is_in_the_network_whatever_it_is(run, tmp_path, options):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef tiny(classes):\n    return nn.Sequential(nn.Conv2d(3, classes, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    done = called("alextrain", "run", run / "shards", "--out", "run", "--steps", "1", *TINY, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = options if "--model" in options else ()
    assert command("alextrain", "export", "run", "--to", "onnx", *own, cwd=tmp_path).returncode == 0
    assert (
        called(
            "alextrain", "eval", "--checkpoint", "run", "--data", run / "shards", "--crops", "1", "--predictions", "p.parquet", *own, cwd=tmp_path
        ).returncode
        == 0
    )
    session = onnxruntime.InferenceSession(tmp_path / "run" / "model.onnx", providers=["CPUExecutionProvider"])
    made = session.run(None, {"pixels": next(iter(Loader(run / "shards", split="val", batch_size=17, crop=64, mean="none"))).images.numpy()})[0]
    for row, p in zip(pq.read_table(tmp_path / "p.parquet").to_pylist(), made, strict=True):
        assert p[row["label"]] == pytest.approx(row["true_p"], abs=1e-5)
    image = min((run / "images" / "val").rglob("*.JPEG"))
    assert called("alextrain", "predict", "--checkpoint", "run", image, *own, cwd=tmp_path).returncode == 0


def test_a_card_tells_of_its_own_checkpoint_only(run, tmp_path):
    whole = called("alextrain", "run", run / "shards", "--out", tmp_path / "run", "--epochs", "2", "--set", "keep=3", *TINY)
    assert whole.returncode == 0, whole.stderr
    early = min((tmp_path / "run").glob("step-*.pt"), key=lambda path: int(path.stem.removeprefix("step-")))
    assert called("alextrain", "export", early, "--to", "hub-folder", "--out", tmp_path / "hub").returncode == 0
    assert "Not measured" in (tmp_path / "hub" / "README.md").read_text()


def test_images_are_predicted_as_the_evaluation_predicts_their_records(run, tmp_path):
    images = sorted((run / "images" / "val").rglob("*.JPEG"))
    done = called("alextrain", "predict", "--checkpoint", run / "run", *images, "--json")
    assert done.returncode == 0, done.stderr
    answers = {answer["image"]: {one["label"]: one["p"] for one in answer["classes"]} for answer in json.loads(done.stdout)}
    evaluated = called("alextrain", "eval", "--checkpoint", run / "run", "--data", run / "shards", "--predictions", tmp_path / "p.parquet")
    assert evaluated.returncode == 0, evaluated.stderr
    for row in pq.read_table(tmp_path / "p.parquet").to_pylist():
        assert answers[str(run / "images" / row["key"])][row["label"]] == pytest.approx(row["true_p"], abs=0.02)  # records are JPEGs once more


def test_prediction_draws_bars_and_names_what_is_no_image(run, tmp_path):
    from PIL import Image

    Image.fromarray(picture(3)).save(tmp_path / "photo.png")
    (tmp_path / "text.jpg").write_text("a text")
    good = called("alextrain", "predict", "--checkpoint", run / "run", tmp_path / "photo.png")
    assert "█" in good.stdout
    assert "ant" in good.stdout
    for name, message in (("text.jpg", "not an image of a known format"), ("gone.jpg", "is no file"), (".", "give images, not folders")):
        bad = called("alextrain", "predict", "--checkpoint", run / "run", tmp_path / "photo.png", tmp_path / name)
        assert bad.returncode == 1
        assert message in bad.stderr


def test_the_four_layer_net_has_its_shapes_and_its_two_initialisations():
    net = FourLayers()
    assert parameters(net) == 89_578  # 32*75+32 + 32*800+32 + 64*800+64 + 10*1024+10
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert float(net.conv2.weight.detach().std()) == pytest.approx(800**-0.5, rel=0.02)
    old = FourLayers("cifar-2012", activation="tanh", norm=True)
    assert float(old.conv1.weight.detach().std()) == pytest.approx(1e-4, rel=0.05)
    assert float(old.fc4.weight.detach().std()) == pytest.approx(0.1, rel=0.02)
    assert FourLayers(crop=24)(torch.zeros(1, 3, 24, 24)).shape == (1, 10)
    images = torch.randn(2, 3, 32, 32) * 60
    relu, tanh, normed = (FourLayers(activation=a, norm=n)(images) for a, n in (("relu", False), ("tanh", False), ("relu", True)))
    assert not torch.allclose(relu, tanh)
    assert not torch.allclose(relu, normed)
    for options in ({"crop": 7}, {"preset": "cifar-1999"}, {"classes": 1}):
        with pytest.raises(ValueError, match="must be|too small"):
            FourLayers(**options)
