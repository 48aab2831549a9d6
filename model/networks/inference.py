"""Load exported networks and describe them in config.json.

An exported network maps RGB pixels to class probabilities; it contains the mean image.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..config import Ablations
from ..errors import TrainingError
from .alexnet import AlexNet
from .cifar import INITIAL, FourLayers

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 1
MOST_CONFIG, MOST_WEIGHTS = 1 << 26, 1 << 34  # maximum file sizes, bytes


@dataclass(frozen=True)
class Architecture:
    """Everything needed to build the network."""

    preset: str
    classes: int
    width: float
    crop: int
    switches: Ablations

    def build(self) -> nn.Module:
        """Return the network without trained weights; the caller loads them."""
        if self.preset in INITIAL:
            shape = {"classes": self.classes, "width": self.width, "crop": self.crop}
            return FourLayers(self.preset, **shape, activation=self.switches.activation, norm=self.switches.norm)  # type: ignore[arg-type]
        return AlexNet(self.preset, classes=self.classes, width=self.width, crop=self.crop, switches=self.switches)


class Deployed(nn.Module):
    """A network with its preprocessing: subtracts the training mean, then ends in a softmax."""

    def __init__(self, network: nn.Module, mean: Float[Tensor, "3 h w"]) -> None:
        """Take the network and the mean to subtract from a record's centre crop (grey levels)."""
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.register_buffer("mean", mean)
        self.eval()

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Return the class probabilities of images of RGB pixels, 0..255."""
        return self.network(pixels - self.mean).softmax(1)


def config_of(architecture: Architecture, names: list[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the content of config.json, with Hugging Face's names for keys where they exist."""
    return {
        "format": FORMAT,
        "model_type": "alexprep",
        "architecture": asdict(architecture),
        "num_channels": 3,
        "image_size": architecture.crop,
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
        **facts,
    }


def load(folder: str | Path) -> tuple[Deployed, dict[str, Any]]:
    """Return network and config from a folder that `alextrain export --to hub-folder` wrote.

    Raise TrainingError, with the reason, if they cannot be loaded.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        for name, most in ((CONFIG, MOST_CONFIG), (WEIGHTS, MOST_WEIGHTS)):
            if not (folder / name).is_file() or (folder / name).stat().st_size > most:
                raise TrainingError(f"{folder / name} is missing, not a file, or larger than {most:,} bytes")
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise TrainingError(f"{folder / CONFIG} has format {config['format']}; this release reads {FORMAT}")
        values = dict(config["architecture"])
        if not all(isinstance(value, bool) for name, value in values["switches"].items() if name != "activation"):
            raise TypeError("a switch must be true or false")
        architecture = Architecture(**values | {"switches": Ablations(**values["switches"])})
        with torch.device("meta"):  # a config with huge sizes allocates no memory
            model = Deployed(architecture.build(), torch.zeros(3, architecture.crop, architecture.crop))
        model.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except TrainingError:
        raise
    except Exception as error:  # a file's content can be wrong in any way
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"{folder} does not hold a network that alextrain export wrote, or it is damaged: {why}") from error
    return model, config
