"""Load a network of the user's, named as package:function."""

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from alexprep.pipeline import DataError
from torch import Tensor, nn

from .config import RunConfig


class UserNetwork(nn.Module):
    """Wraps a network of the user's, which takes images only; weights keep their names."""

    def __init__(self, network: nn.Module) -> None:
        """Take the network."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, _keys: Tensor | None = None) -> Tensor:
        """Return the network's logits."""
        return self.network(images)

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:  # noqa: ANN401  (torch's)
        """Return the network's parameters by its own names."""
        return self.network.named_parameters(*arguments, **options)

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ANN401  (torch's)
        """Return the network's state."""
        return self.network.state_dict(*arguments, **options)

    def load_state_dict(self, state: Any, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]  # noqa: ANN401  (torch's)
        """Load a state of the network."""
        return self.network.load_state_dict(state, *arguments, **options)


def load_network(settings: RunConfig, classes: int) -> UserNetwork:
    """Return the network that the settings' package:function makes.

    The settings' seed determines its initial weights. DataError if the function fails, or the
    network does not map images [2,3,crop,crop] to logits [2,classes].
    """
    module, _, function = settings.network.model.partition(":")
    torch.manual_seed(settings.data.seed)
    sys.path.insert(0, "")  # the working directory, as with python -m
    try:
        network = getattr(importlib.import_module(module), function)(classes=classes)
    except Exception as error:  # the user's code may raise anything
        raise DataError(f"--model {settings.network.model}: {error}") from error
    finally:
        sys.path.remove("")
    if not isinstance(network, nn.Module):
        raise DataError(f"--model {settings.network.model} returned a {type(network).__name__} instead of a torch.nn.Module")
    try:
        with torch.no_grad():
            logits = network.eval()(torch.zeros(2, 3, settings.data.crop, settings.data.crop))
        shape = tuple(logits.shape)
    except Exception as error:  # the user's code may raise anything
        raise DataError(
            f"--model {settings.network.model} does not take images of [2,3,{settings.data.crop},{settings.data.crop}]: {error}"
        ) from error
    if shape != (2, classes) or not any(True for _ in network.parameters()):
        raise DataError(f"--model {settings.network.model} gives {list(shape)} for two images instead of [2,{classes}], or has no parameters")
    return UserNetwork(network.train())
