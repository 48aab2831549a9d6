"""`alextrain ablate`: a grid of switches and seeds as one job."""

from pathlib import Path
from typing import Any

import click

from .common import print_json, say, wrong_values
from .options import PRESET, SHARDS, settings_options


@click.command()
@SHARDS
@click.option("--study", is_flag=True, help="The rows of the paper: norm, overlap, exchange, one GPU, colour, dropout, tanh, each against the whole.")
@click.option("--only", multiple=True, metavar="ROW", help="Of --study: these rows (and the baseline) only.")
@click.option("--vary", multiple=True, metavar="KEY=VALUE,...", help="A grid instead: every combination of these settings' values.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1, 1000), help="Runs of each, with --seed and those after it.")
@click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Runs at a time; they share the CPUs, and take the GPUs in turn."
)
@click.option("--part", default="1/1", metavar="I/N", help="Only the I-th of N shares of the runs, on this machine.")
@click.option("--out", default=Path("ablation"), show_default=True, type=click.Path(path_type=Path), help="Folder of the runs and of their table.")
@PRESET
@settings_options
@click.option("--table", is_flag=True, help="Train nothing: only the table of what is finished.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def ablate(
    directory: Path,
    study: bool,
    only: tuple[str, ...],
    vary: tuple[str, ...],
    seeds: int,
    jobs: int,
    part: str,
    out: Path,
    preset: str | None,
    config: Path | None,
    assignments: tuple[str, ...],
    table: bool,
    as_json: bool,
    **options: Any,  # noqa: ANN401  (settings)
) -> None:
    """Train a grid of settings and seeds on the shards in DIRECTORY, and print its table beside the paper's.

    Each cell is a run like any other, in OUT/<row>/seed-<n>. Killed, the same command goes on: finished runs are not run again,
    begun ones continue from their checkpoint.

    \b
      alextrain ablate --study --seeds 3                            # the paper's own, on ImageNet: weeks
      alextrain ablate --vary norm=true,false --vary lr=0.003,0.01 --epochs 10 --jobs 2
    """
    from alexprep.pipeline import DataError
    from alexprep.pipeline.preparation.job import Part

    from .ablation import cells, grid
    from .ablation import study as study_of
    from .building import check_data, validation_split
    from .entry import INTERRUPTED
    from .jobs import Job
    from .safety import REQUEUE
    from .settings import collect
    from .tables import markdown, summary, write_table

    if study == bool(vary) or (only and not study):
        raise click.UsageError("give either --study (with or without --only) or --vary")
    with wrong_values():
        given = collect(preset, config, options, assignments)
        rows = study_of(given, only) if study else grid(given, vary)
        share, everything = Part.parse(part), cells(rows, seeds, out)
        if any(row.model for row in rows.values()):
            raise ValueError("ablate is for the networks of this project")
        for row in rows.values():
            if validation_split(check_data(directory, row, 1)) is None:
                raise DataError(f"{directory} has neither val nor test: there would be nothing to compare")
    todo = [cell for number, cell in enumerate(everything) if share.has(number) and not cell.finished()]
    job = Job(directory, jobs, _gpus())
    if todo and not table:
        say(f"{len(everything)} runs, {len(todo)} of them to be done here, {jobs} at a time")
        job.run(todo)
    done = [cell for cell in everything if cell.finished()]
    result = summary(done, next(iter(rows)))
    if done:
        say(f"{len(done)} of {len(everything)} runs are finished: {write_table(out, result)}")
    if as_json:
        print_json(result)
    elif done:
        click.echo(markdown(result), nl=False)
    if job.stopped:
        say(f"stopped by {job.stopped}; the same command goes on")
        raise SystemExit(INTERRUPTED if job.stopped == "SIGINT" else REQUEUE)
    if job.failed:
        raise DataError(f"{len(job.failed)} runs failed: " + "; ".join(f"{label}: {why}" for label, why in job.failed.items()))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
