"""What a run is built of: its data set, its network, how that lies on the ranks; and what cannot be, said before anything is made."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from alexprep.model.distributed import Ranks
from alexprep.model.networks.alexnet import Ablations, AlexNet
from alexprep.model.networks.cifar import INITIAL, FourLayers
from alexprep.model.training.parallel_layout import TOWERS, Name, choose, unfit
from alexprep.pipeline import DataError, Manifest, read_manifest
from torch import Tensor, nn

from . import synthetic
from .loggers import check_installed
from .settings import Settings


def check_data(directory: Path, settings: Settings, world_size: int) -> Manifest:
    """Return the data set if it can be trained on; DataError or ValueError says why not, before anything is started or made."""
    manifest = synthetic.manifest(settings) if directory == synthetic.NOWHERE else read_manifest(directory)
    records = manifest.split("train").records
    check_installed(settings.loggers)
    name: Name = "data"
    if not settings.alexnet:
        if settings.parallel not in ("auto", "data"):
            raise DataError(f"--parallel {settings.parallel} is for the AlexNets of this project; any other network is trained with data")
        if not settings.model:
            with torch.device("meta"):
                builder(settings, max(2, len(manifest.classes)))()
    else:
        with torch.device("meta"):
            whole = builder(settings, max(2, len(manifest.classes)))()  # ValueError for a network that cannot be
        name = choose_layout(settings, whole, world_size)[0]
        why_not = unfit(name, whole, world_size)
        if settings.compile and name != "data" and world_size > 1:
            why_not = f"--compile does not see through the exchanges of --parallel {name}; use --parallel data, or no --compile"
        if why_not:
            raise DataError(why_not)
    settings.loader(world_size=world_size // TOWERS if name == "towers" and world_size > 1 else world_size)
    if records < settings.batch_size:
        raise DataError(f"{directory} has {records} training records, fewer than one batch of {settings.batch_size}; use a smaller --batch-size")
    if len(manifest.classes) < 2:
        raise DataError(f"{directory} has {len(manifest.classes)} class; training needs at least two")
    if settings.schedule == "plateau" and validation_split(manifest) is None:
        raise DataError(f"{directory} has no val split, and the plateau schedule follows the validation error: use --set schedule=fixed")
    if settings.crop > manifest.config.size:
        raise DataError(
            f"crop {settings.crop} does not fit into the records of {directory}, {manifest.config.size} pixels a side; use a smaller --crop"
        )
    return manifest


def validation_split(manifest: Manifest) -> str | None:
    """Return what is validated on: val, or where there is none, as of CIFAR-10, test; None without either."""
    return next((name for name in ("val", "test") if name in manifest.splits), None)


def split_or_default(manifest: Manifest, split: str | None) -> str:
    """Return the split asked for, or the one that is validated on; DataError if there is no such split."""
    name = split or validation_split(manifest) or "val"
    manifest.split(name)
    return name


class UserNetwork(nn.Module):
    """A network of the user's, which is given images only. Its weights have the names that it gave them."""

    def __init__(self, network: nn.Module) -> None:
        """Take the network."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, _keys: Tensor | None = None) -> Tensor:
        """Return its logits."""
        return self.network(images)

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:  # noqa: ANN401  (torch's)
        """Return its parameters by its names."""
        return self.network.named_parameters(*arguments, **options)

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ANN401  (torch's)
        """Return its state."""
        return self.network.state_dict(*arguments, **options)

    def load_state_dict(self, state: Any, *arguments: Any, **options: Any) -> Any:  # type: ignore[override]  # noqa: ANN401  (torch's)
        """Take a state of its."""
        return self.network.load_state_dict(state, *arguments, **options)


def own(settings: Settings, classes: int) -> UserNetwork:
    """Return the network that package:function of the settings makes, its weights by the settings' seed; DataError if it cannot."""
    module, _, function = settings.model.partition(":")
    torch.manual_seed(settings.seed)
    sys.path.insert(0, "")  # the current folder, as python -m has it
    try:
        network = getattr(importlib.import_module(module), function)(classes=classes)
    except Exception as error:  # somebody's code
        raise DataError(f"--model {settings.model}: {error}") from error
    finally:
        sys.path.remove("")
    if not isinstance(network, nn.Module):
        raise DataError(f"--model {settings.model} returned a {type(network).__name__} instead of a torch.nn.Module")
    try:
        with torch.no_grad():
            logits = network.eval()(torch.zeros(2, 3, settings.crop, settings.crop))
        shape = tuple(logits.shape)
    except Exception as error:  # somebody's code
        raise DataError(f"--model {settings.model} does not take images of [2,3,{settings.crop},{settings.crop}]: {error}") from error
    if shape != (2, classes) or not any(True for _ in network.parameters()):
        raise DataError(f"--model {settings.model} gives {list(shape)} for two images instead of [2,{classes}], or has no parameters")
    return UserNetwork(network.train())


def builder(settings: Settings, classes: int) -> Callable[..., AlexNet]:
    """Return what makes the network of these settings, or with `convs` and `fcs` a part of it."""
    if settings.model:
        return partial(own, settings, classes)  # type: ignore[return-value]  # the trainer asks no more of it
    if settings.preset in INITIAL:
        options: dict[str, Any] = {"activation": settings.activation, "norm": settings.norm}
        return partial(FourLayers, settings.preset, classes=classes, width=settings.width, crop=settings.crop, seed=settings.seed, **options)  # type: ignore[return-value]  # the trainer asks no more of it
    switches = Ablations(**{field.name: getattr(settings, field.name) for field in fields(Ablations)})
    return partial(AlexNet, settings.preset, classes=classes, width=settings.width, crop=settings.crop, seed=settings.seed, switches=switches)


def on_device(model: AlexNet, ranks: Ranks) -> AlexNet:
    """Return the network where this rank computes."""
    return model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_layout(settings: Settings, whole: AlexNet, world_size: int) -> tuple[Name, str]:
    """Return how the network lies on so many ranks, and why, if that was left open."""
    if not settings.alexnet or (settings.compile and settings.parallel == "auto"):
        return "data", ""
    number = {"float32": 4, "bfloat16": 2}
    bytes_of = {"activation": number[settings.precision], "gradient": number[settings.gradients]}
    return choose(settings.parallel, world_size, whole, settings.batch_size, **bytes_of)  # type: ignore[arg-type]
