"""Options that several commands of `alextrain` have."""

import re
from pathlib import Path
from typing import Any

import click

SHARDS = click.argument("directory", default="shards", type=click.Path(path_type=Path), envvar="ALEXPREP_DATA")
DEVICE = click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "gpu"]), help="auto: a GPU if there is one.")


def place_options(command: Any) -> Any:  # noqa: ANN401  (click decorates anything)
    """Add the options that say where the work is done."""
    for option in (
        DEVICE,
        click.option("--cpu-ranks", type=click.IntRange(1, 64), help="Processes on the CPU, over gloo."),
        click.option("--gpus", type=click.IntRange(1, 64), help="GPUs of this machine, a process each, over NCCL."),
    ):
        command = option(command)
    return command


def size_in_bytes(_ctx: click.Context, _option: click.Parameter, value: str) -> int:
    """Return the bytes that such as 200G means."""
    match = re.fullmatch(r"([0-9]{1,15})([KMGT]?)B?", value.strip().upper())
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(f"a size is a number of bytes, or such as 500M, 200G, 1T; got {value}")
    return int(match[1]) * 1000 ** " KMGT".index(match[2] or " ")


def cache_options(command: Any) -> Any:  # noqa: ANN401  (click decorates anything)
    """Add the options of shards in an object store."""
    for option in (
        click.option("--cache-size", default="100G", show_default=True, metavar="SIZE", callback=size_in_bytes, help="Of that folder."),
        click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Local folder for the shards of an object store (s3://...)."),
    ):
        command = option(command)
    return command


SYNTHETIC = "synthetic"


def served_or_synthetic(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Return the value of `alextrain run --data`."""
    if value is not None and value != SYNTHETIC and not value.startswith(("grpc://", "grpc+tls://")):
        raise click.BadParameter(f"it is {SYNTHETIC}, or where alexprep serve is (grpc://HOST:PORT); a folder of shards is DIRECTORY. Got {value!r}")
    return value


PRESET = click.option(
    "--preset",
    type=click.Choice(["source", "paper", "one-gpu", "caffe", "owt", "cifar", "cifar-2012"]),
    help="source: what the authors ran; paper: what the text says; one-gpu: half of it; caffe: bvlc_alexnet; owt: torchvision's; "
    "cifar, cifar-2012: the four-layer net, two initialisations.  [default: source]",
)


def settings_options(command: Any) -> Any:  # noqa: ANN401  (click decorates anything)
    """Add the options of a run's settings."""
    for option in (
        click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, such as a run's config.toml."),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting of config.toml."),
        click.option("--compile/--no-compile", default=None, help="By torch.compile.  [default: no]"),
        click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Of the arithmetic; weights stay float32.  [default: float32]"),
        click.option("--crop", type=int, help="Pixels a side.  [default: 224]"),
        click.option("--seed", type=int, help="Of weights, order, crops, colours and dropout.  [default: 0]"),
        click.option("--lr", type=float, help="At the start.  [default: 0.01]"),
        click.option("--steps", type=int, help="Stop after so many steps."),
        click.option("--epochs", type=int, help="[default: the preset's: 95 of source, 90 of paper, 60 of cifar]"),
        click.option("--batch-size", type=int, help="Of all ranks together.  [default: 128]"),
        click.option("--width", type=float, help="Factor on the kernels of every layer.  [default: 1.0]"),
    ):
        command = option(command)
    return command


def cached(cache: Path | None, size: int) -> dict[str, Any]:
    """Return LoaderConfig's part of the options of `cache_options`."""
    return {} if cache is None else {"cache": str(cache), "cache_size": size}


CHECKPOINT = click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="A run's folder (its last.pt is taken) or a .pt file.")
DATA = click.option(
    "--data", default="shards", show_default=True, type=click.Path(path_type=Path), envvar="ALEXPREP_DATA", show_envvar=True, help="Folder of shards."
)
SPLIT = click.option("--split", help="Of the shards.  [default: val, or test where there is no val]")
OWN = click.option("--model", default="", metavar="PACKAGE:FUNCTION", help="What made the network, if it is one's own.")


def check_place(path: Path | None, ending: str) -> None:
    """Say before the work what would keep its result from being written there; a usage error for a file of another kind."""
    if path is None:
        return
    if path.suffix != ending:
        raise click.UsageError(f"{path} must end in {ending}: that is what is written")
    if not path.parent.is_dir():
        raise click.UsageError(f"there is no folder {path.parent} for {path.name}")
