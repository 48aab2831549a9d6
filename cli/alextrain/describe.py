"""`alextrain describe`: print the layers of a network."""

from typing import Any

import click

from ..errors import wrong_values
from ..options import JSON, Grouped
from ..run_options import settings_group
from ..text import print_json


@click.command(cls=Grouped)
@settings_group("width", "crop")
@click.option("--classes", default=1000, show_default=True, type=click.IntRange(2), help="Units of fc8.")
@JSON
def describe(
    preset: str | None,
    classes: int,
    assignments: tuple[str, ...],
    config: Any,  # noqa: ANN401  (a Path or None)
    as_json: bool,
    **options: Any,  # noqa: ANN401  (settings)
) -> None:
    """Print the layers of a network, with their cost.

    The cost is that of the whole network and of each tower. Columns: shapes, kernels, parameters, multiply-adds, bytes of activation.
    """
    import torch
    from alexprep.experiment.build import builder
    from alexprep.experiment.config import resolve

    from .tables import layers, layers_json

    with wrong_values():
        settings = resolve(preset, config, options, assignments)
        if not settings.alexnet:
            raise click.UsageError("describe is for the AlexNets of this project")
        with torch.device("meta"):
            model = builder(settings, classes)()
    if as_json:
        print_json(layers_json(model, settings.data.crop))
    else:
        click.echo(layers(model, settings.data.crop))
