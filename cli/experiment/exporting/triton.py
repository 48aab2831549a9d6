"""Write the configurations and the README of a model repository for NVIDIA Triton."""

from ..measuring.evaluate import Trained
from .model_card import preprocessing

LARGEST_BATCH = 128  # maximum images of a batch


def triton_configs(trained: Trained, device: str) -> dict[str, str]:
    """Return the config.pbtxt of each model of the repository, by its folder's name."""
    crop, classes = trained.settings.data.crop, len(trained.classes)
    place = "KIND_GPU" if device == "gpu" else "KIND_CPU"
    image, pixels, p = ("TYPE_UINT8", "[ -1 ]"), ("TYPE_FP32", f"[ 3, {crop}, {crop} ]"), ("TYPE_FP32", f"[ {classes} ]")

    def tensors(kind: str, name: str, of: tuple[str, str]) -> str:
        return f'{kind} [ {{ name: "{name}" data_type: {of[0]} dims: {of[1]} }} ]\n'

    def step(model: str, given: tuple[str, str], made: tuple[str, str]) -> str:
        maps = f'input_map {{ key: "{given[0]}" value: "{given[1]}" }} output_map {{ key: "{made[0]}" value: "{made[1]}" }}'
        return f'    {{ model_name: "{model}" model_version: -1 {maps} }}'

    steps = ",\n".join(
        [step("preprocess", ("image", "image"), ("pixels", "view")), step("network", ("pixels", "view"), ("probabilities", "probabilities"))]
    )
    return {
        "preprocess": f'name: "preprocess"\nbackend: "dali"\nmax_batch_size: {LARGEST_BATCH}\n'
        + tensors("input", "image", image)
        + tensors("output", "pixels", pixels)
        + f"instance_group [ {{ kind: {place} }} ]\ndynamic_batching {{ }}\n",
        "network": f'name: "network"\nbackend: "onnxruntime"\nmax_batch_size: {LARGEST_BATCH}\n'
        + tensors("input", "pixels", pixels)
        + tensors("output", "probabilities", p)
        + f"instance_group [ {{ kind: {place} }} ]\ndynamic_batching {{ }}\n",
        "classify": f'name: "classify"\nplatform: "ensemble"\nmax_batch_size: {LARGEST_BATCH}\n'
        + tensors("input", "image", image)
        + tensors("output", "probabilities", p)
        + f"ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n",
    }


def triton_notes(trained: Trained, device: str) -> str:
    """Return the repository's README."""
    return f"""# A model repository for NVIDIA Triton

`classify` takes the bytes of an encoded image (uint8 [-1]) and returns {len(trained.classes)} probabilities of its centre view. It is an ensemble of
`preprocess` (a DALI graph, decoding on the {device.upper()}) and `network` (ONNX).

    tritonserver --model-repository .

It needs Triton's DALI and ONNX Runtime backends. DALI scales images with its own filter, which is not the one used in
training: pixels differ by about one grey level on average, and probabilities accordingly. A batch may hold images of
any sizes; clients pad their bytes to one length (JPEG decoders ignore what follows the end of an image).

What was checked when this was written: the DALI graph was built and its operators are in the registry of the DALI that built it; the ONNX network
equals torch to 1e-5 in onnxruntime. It was not tried in Triton itself.

{preprocessing(trained).replace("# Input", "## Input")}"""
