"""`alextrain predict`: classify images in files."""

from pathlib import Path
from typing import Any

import click

from ..options import CHECKPOINT, DEVICE, JSON, USER_NETWORK, Grouped
from ..text import print_json


@click.command(cls=Grouped)
@CHECKPOINT
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@USER_NETWORK
@DEVICE
@JSON
def predict(checkpoint: Path, images: tuple[Path, ...], model: str, device: str, as_json: bool) -> None:
    """Classify images, and print the five best classes.

    Ten views of each image are averaged. Any image that `alexprep shard` takes will do.
    """
    from alexprep.experiment.measuring.predict import classify
    from alexprep.experiment.process.launch import alone
    from alexprep.model.distributed import joined

    from .tables import bars

    with joined(alone(device).device) as ranks:
        answers: list[dict[str, Any]] = []
        for path, answer in classify(checkpoint, images, ranks, model):
            answers.append({"image": str(path), "classes": [{"name": name, "label": label, "p": p} for name, label, p in answer]})
            if not as_json:
                click.echo(bars(path, answer))
    if as_json:
        print_json(answers)
