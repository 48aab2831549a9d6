"""`alextrain figures`: draw the paper's figures 3 and 4 of a run."""

from pathlib import Path

import click

from ..options import DEVICE, JSON, RUN_DATA, Grouped, cache_options, cached
from ..progress import Bar
from ..text import print_json


@click.command(cls=Grouped)
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path))
@RUN_DATA
@click.option("--checkpoint", metavar="FILE", help="Name of one of the run's .pt files.  [default: last.pt]")
@click.option(
    "--queries", default=5, show_default=True, type=click.IntRange(1, 100), help="Validation images whose nearest training images are sought."
)
@click.option("--nearest", default=6, show_default=True, type=click.IntRange(1, 50), help="Training images for each of them.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1), help="Seed that draws the images.")
@DEVICE
@cache_options
@JSON
def figures(
    directory: Path,
    data: Path | None,
    checkpoint: str | None,
    queries: int,
    nearest: int,
    seed: int,
    device: str,
    cache: Path | None,
    cache_size: int,
    as_json: bool,
) -> None:
    """Draw the paper's figures 3 and 4 of a run.

    Figure 3: the first layer's kernels, by tower. Figure 4: eight validation images with five bars each; and validation images
    with the training images whose last hidden vectors are nearest. They are found exactly: all training images go through the
    network once. Written are RUN/figure-3.png and RUN/figure-4.png; the report of the run shows the neighbours from then on.
    """
    from alexprep.experiment.process.launch import alone
    from alexprep.experiment.reporting.figures import draw_figures
    from alexprep.experiment.run_folder import RunFolder
    from alexprep.model.distributed import joined

    folder = RunFolder.existing(directory)
    with joined(alone(device).device) as ranks:
        made = draw_figures(folder, data, checkpoint, (queries, nearest, seed), ranks, cached(cache, cache_size), Bar)
    if as_json:
        print_json(made)
        return
    shares = ", ".join(f"tower {number} {100 * share:.1f} %" for number, share in enumerate(made["chroma"], 1))
    click.echo(f"chroma of the first layer's kernels at step {made['step']:,}: {shares}")
    for path in made["files"]:
        click.echo(path)
