"""`alextrain report | watch | figures`: what a run looks like."""

from pathlib import Path

import click

from .common import print_json
from .options import DEVICE, cache_options, cached, check_place

RUNS = click.argument("directories", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
SHARDS = click.option("--data", type=click.Path(path_type=Path), help="Folder of shards.  [default: where the run had them]")


@click.command()
@RUNS
@SHARDS
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: RUN/report.html; of several runs, report.html]")
def report(directories: tuple[Path, ...], data: Path | None, out: Path | None) -> None:
    """Write the page of a run again, from what it has kept; of several runs, one page with their curves together.

    One HTML file that needs nothing else: it opens from the disk, without a network.
    """
    from .reporting import REPORT, write_report
    from .runs import RunFolder

    check_place(out, ".html")
    folders = [RunFolder.existing(directory) for directory in directories]
    click.echo(str(write_report(folders, out or (folders[0].directory / REPORT if len(folders) == 1 else Path(REPORT)), data)))


@click.command()
@RUNS
@SHARDS
@click.option("--port", default=8008, show_default=True, type=click.IntRange(0, 65535), help="On 127.0.0.1; 0: any that is free.")
def watch(directories: tuple[Path, ...], data: Path | None, port: int) -> None:
    """Serve the page of runs while they train: its curves grow. On this machine only (127.0.0.1); Ctrl-C ends it."""
    from alexprep.pipeline import read_manifest

    from .runs import RunFolder
    from .watching import serve

    folders = [RunFolder.existing(directory) for directory in directories]
    if data is not None:
        read_manifest(data)  # what is wrong is said here, not in the browser
    serve(folders, data, port)


@click.command()
@click.argument("directory", metavar="RUN", type=click.Path(path_type=Path))
@SHARDS
@click.option("--checkpoint", metavar="FILE", help="One of the run's .pt files.  [default: last.pt]")
@click.option(
    "--queries", default=5, show_default=True, type=click.IntRange(1, 100), help="Validation images whose nearest training images are sought."
)
@click.option("--nearest", default=6, show_default=True, type=click.IntRange(1, 50), help="How many of each.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**64 - 1), help="Draws the images that are shown.")
@DEVICE
@cache_options
@click.option("--json", "as_json", is_flag=True, help="Print the chroma fractions and the neighbours as JSON.")
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
    """Draw the paper's figures 3 and 4 of a run: RUN/figure-3.png and RUN/figure-4.png; the neighbours are in its report from then on.

    Figure 3: the first layer's kernels, by tower. Figure 4: eight validation images with five bars each; and validation images
    with the training images whose last hidden vectors are nearest, found exactly: all training images go through the network once.
    """
    from alexprep.model.distributed import joined

    from .drawing import draw_figures
    from .launch import alone
    from .runs import RunFolder

    folder = RunFolder.existing(directory)
    with joined(alone(device)) as ranks:
        made = draw_figures(folder, data, checkpoint, (queries, nearest, seed), ranks, cached(cache, cache_size))
    if as_json:
        print_json(made)
        return
    shares = ", ".join(f"tower {number} {100 * share:.1f} %" for number, share in enumerate(made["chroma"], 1))
    click.echo(f"chroma of the first layer's kernels at step {made['step']:,}: {shares}")
    for path in made["files"]:
        click.echo(path)
