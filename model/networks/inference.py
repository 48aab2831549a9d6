"""A trained network for use elsewhere: RGB pixels in, class probabilities out, the mean image inside."""

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
MOST_CONFIG, MOST_WEIGHTS = 1 << 26, 1 << 34  # bytes


@dataclass(frozen=True)
class Architecture:
    """All that builds the network."""

    preset: str
    classes: int
    width: float
    crop: int
    switches: Ablations

    def build(self) -> nn.Module:
        """Return the network; its weights are to be loaded."""
        if self.preset in INITIAL:
            shape = {"classes": self.classes, "width": self.width, "crop": self.crop}
            return FourLayers(self.preset, **shape, activation=self.switches.activation, norm=self.switches.norm)  # type: ignore[arg-type]
        return AlexNet(self.preset, classes=self.classes, width=self.width, crop=self.crop, switches=self.switches)


class Deployed(nn.Module):
    """The network with its preprocessing: the view's pixels less the mean it was trained with, then softmax."""

    def __init__(self, network: nn.Module, mean: Float[Tensor, "3 h w"]) -> None:
        """Take the network, and what is subtracted from the centre crop of a record (grey levels)."""
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.register_buffer("mean", mean)
        self.eval()

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b classes"]:
        """Return probabilities of RGB pixels, 0..255."""
        return self.network(pixels - self.mean).softmax(1)


def config_of(architecture: Architecture, names: list[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Return what config.json says, in the words that Hugging Face's readers know where there are such."""
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
    """Return the network in a folder that `alextrain export --to hub-folder` wrote, and its config; TrainingError says what is wrong with it."""
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        for name, most in ((CONFIG, MOST_CONFIG), (WEIGHTS, MOST_WEIGHTS)):
            if not (folder / name).is_file() or (folder / name).stat().st_size > most:
                raise TrainingError(f"{folder / name} is no file of at most {most:,} bytes")
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise TrainingError(f"{folder / CONFIG} has format {config['format']}; this release reads {FORMAT}")
        values = dict(config["architecture"])
        if not all(isinstance(value, bool) for name, value in values["switches"].items() if name != "activation"):
            raise TypeError("a switch must be true or false")
        architecture = Architecture(**values | {"switches": Ablations(**values["switches"])})
        with torch.device("meta"):  # so that a config that claims too much costs no memory
            model = Deployed(architecture.build(), torch.zeros(3, architecture.crop, architecture.crop))
        model.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except TrainingError:
        raise
    except Exception as error:  # a file's content can be wrong in any way
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainingError(f"{folder} does not hold a network that alextrain export wrote, or it is damaged: {why}") from error
    return model, config
