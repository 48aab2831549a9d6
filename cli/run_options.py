"""Options for the settings of a run, made from the fields of `RunConfig`.

The fields define each option's name, type, choices, help text and default.
"""

from pathlib import Path

import click
from alexprep.experiment.config import RunConfig, hints
from alexprep.experiment.presets import RECIPES

from .options import Decorator, group, option_of

SYNTHETIC = "synthetic"
DEFAULTS = RunConfig().flat()
PRESET = click.option(
    "--preset",
    type=click.Choice(list(RECIPES)),
    help="Network and recipe. source: what the authors ran; paper: what the text says; one-gpu: half of source; caffe: bvlc_alexnet; "
    "owt: torchvision's; cifar, cifar-2012: the four-layer net with two initialisations.  [default: source]",
)
# options of both run and ablate
SETTINGS = ("batch_size", "epochs", "steps", "lr", "width", "crop", "seed", "precision", "compile")
RUN_SETTINGS = ("parallel", "shuffle", "on_bad", "deterministic")  # options of run only


def setting(name: str) -> Decorator:
    """Return the option of a setting of a run; its value is None if it is not given."""
    hint, default = hints()[name], DEFAULTS[name]
    recipes = {preset: recipe[name] for preset, recipe in RECIPES.items() if name in recipe}
    shown = ("yes" if default else "no") if hint.kind is bool else default
    if recipes:
        shown = f"{shown}; of the preset " + ", ".join(f"{preset} {value}" for preset, value in recipes.items() if value != default)
    return option_of(name, hint, f"  [default: {shown}]" if shown != "" else "", default=None)


def settings_group(*names: str) -> Decorator:
    """Return a decorator that adds the options of settings, --preset, --set and --config."""
    return group(
        "Settings",
        PRESET,
        *(setting(name) for name in names),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting (docs/settings.md); may be repeated."),
        click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, such as a run's config.toml."),
    )


def served_or_synthetic(_ctx: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """Return the value of `alextrain run --data`; BadParameter if it is invalid."""
    if value is not None and value != SYNTHETIC and not value.startswith(("grpc://", "grpc+tls://")):
        raise click.BadParameter(
            f"must be {SYNTHETIC}, or the address of alexprep serve (grpc://HOST:PORT); give a folder of shards as DIRECTORY. Got {value!r}"
        )
    return value
