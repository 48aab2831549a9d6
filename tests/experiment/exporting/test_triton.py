"""A model repository for Triton."""

import numpy as np
import pytest

from ...support.commands import command
from ...support.images import jpeg, picture


def exported(run, out, kind, *arguments):
    done = command("alextrain", "export", run / "run", "--to", kind, "--out", out, *arguments)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.process
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
