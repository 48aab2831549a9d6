"""Build the parts of a run from its configuration: network, layout on the ranks, trainer."""

import copy
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from alexprep.model.distributed import Ranks
from alexprep.model.events import Started
from alexprep.model.networks.alexnet import AlexNet, parameters
from alexprep.model.networks.cifar import INITIAL, FourLayers
from alexprep.model.networks.summary import multiply_adds
from alexprep.model.training.optimizer import RATES, PaperSGD
from alexprep.model.training.parallel_layout import Name, ParallelLayout, choose, lay_out
from alexprep.model.training.trainer import Trainer
from alexprep.pipeline import Manifest

from .config import RunConfig, schedule_of
from .user_network import load_network

BYTES = {"float32": 4, "bfloat16": 2}  # bytes per number


def builder(settings: RunConfig, classes: int) -> Callable[..., AlexNet]:
    """Return a function that makes the network of these settings. With `convs` and `fcs`, the function makes that part of the network."""
    # return-value is ignored below: the trainer uses only what all three classes have
    network, crop, seed = settings.network, settings.data.crop, settings.data.seed
    if network.model:
        return partial(load_network, settings, classes)  # type: ignore[return-value]
    if network.preset in INITIAL:
        options: dict[str, Any] = {"activation": network.ablations.activation, "norm": network.ablations.norm}
        return partial(FourLayers, network.preset, classes=classes, width=network.width, crop=crop, seed=seed, **options)  # type: ignore[return-value]
    return partial(AlexNet, network.preset, classes=classes, width=network.width, crop=crop, seed=seed, switches=network.ablations)


def on_device(model: AlexNet, ranks: Ranks) -> AlexNet:
    """Return the network on this rank's device, in channels-last memory format."""
    return model.to(ranks.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def choose_layout(settings: RunConfig, whole: AlexNet, world_size: int) -> tuple[Name, str]:
    """Return the layout for `world_size` ranks, and the reason if it was chosen automatically."""
    trainer = settings.trainer
    if not settings.alexnet or (trainer.compile and trainer.parallel == "auto"):
        return "data", ""
    bytes_of = {"activation": BYTES[trainer.precision], "gradient": BYTES[trainer.gradients]}
    return choose(trainer.parallel, world_size, whole, settings.data.batch_size, **bytes_of)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A network and its trainer, on this rank."""

    whole: AlexNet  # initial weights at first; later the weights that all ranks evaluate
    model: AlexNet  # this rank's part of the network
    layout: ParallelLayout
    trainer: Trainer
    note: str  # reason for the layout, if it was chosen automatically


def build(settings: RunConfig, manifest: Manifest, ranks: Ranks) -> Parts:
    """Return the parts of a run on this rank."""
    if settings.trainer.deterministic:  # conditional: it imports torch's compiler, 2 seconds
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        torch.use_deterministic_algorithms(True)  # noqa: FBT003
    make = builder(settings, len(manifest.classes))
    whole = on_device(make(), ranks)
    name, note = choose_layout(settings, whole, ranks.world_size)
    layout = lay_out(name, ranks, whole, half_gradients=settings.trainer.gradients == "bfloat16")
    model = whole
    if name != "data":
        model = on_device(make(convs=layout.convs, fcs=layout.fcs), ranks)
        model.load_state_dict(layout.part(whole.state_dict()))
    elif settings.trainer.ema:
        model = copy.deepcopy(whole)
    rates = replace(RATES[settings.network.preset], weight_decay=settings.trainer.weight_decay)
    trainer = Trainer(
        model,
        PaperSGD(model, rates, first_layer="" if settings.network.model else "conv1."),
        schedule_of(settings),
        settings.trainer,
        layout,
        epoch_steps=manifest.split("train").records // settings.data.batch_size,
        seed=settings.data.seed,
        reseed=bool(settings.network.model),
    )
    return Parts(whole=whole, model=model, layout=layout, trainer=trainer, note=note)


def started(settings: RunConfig, data: Path, manifest: Manifest, parts: Parts, ranks: Ranks, step: int) -> Started:
    """Return the event that starts or resumes a run: settings, data, network, device, versions."""
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else f"{platform.machine()} CPU"
    return Started(
        step=step,
        settings=settings.flat(),
        data=str(data),
        plan=manifest.plan,
        classes=len(manifest.classes),
        parameters=parameters(parts.whole),
        multiply_adds=multiply_adds(parts.whole, settings.data.crop) if settings.alexnet else 0,
        parallel=parts.layout.name,
        device=device,
        ranks=ranks.world_size,
        versions={"python": platform.python_version(), "alexprep": version("alexprep"), "torch": torch.__version__},
    )
