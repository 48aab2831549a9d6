"""`alextrain ablate`: train a grid of settings and seeds as one job."""

from pathlib import Path
from typing import Any

import click

from ..errors import wrong_values
from ..options import JSON, SHARDS, Grouped, group
from ..progress import Bar
from ..run_options import SETTINGS, settings_group
from ..text import print_json, say


@click.command(cls=Grouped)
@SHARDS
@group(
    "Grid",
    click.option("--study", is_flag=True, help="Rows of the paper: norm, overlap, exchange, one GPU, colour, dropout, tanh, each against the whole."),
    click.option("--only", multiple=True, metavar="ROW", help="Rows of --study, in place of all; the baseline is always among them."),
    click.option("--vary", multiple=True, metavar="KEY=VALUE,...", help="Values of a setting, in place of --study; every combination is a row."),
    click.option("--seeds", default=1, show_default=True, type=click.IntRange(1, 1000), help="Runs of each row, with --seed and those after it."),
)
@group(
    "Runs",
    click.option(
        "--jobs", default=1, show_default=True, type=click.IntRange(1, 64), help="Runs at a time; they share the CPUs, and take the GPUs in turn."
    ),
    click.option("--part", default="1/1", metavar="I/N", help="Share of the runs for this machine: the I-th of N."),
    click.option("--out", default=Path("ablation"), show_default=True, type=click.Path(path_type=Path), help="Folder of the runs and their table."),
    click.option("--table", is_flag=True, help="Table of what is finished; nothing is trained."),
    JSON,
)
@settings_group(*SETTINGS)
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
    """Train a grid of settings and seeds, and print its table.

    The shards are those in DIRECTORY (shards/, or $ALEXPREP_DATA). The table stands beside the paper's. Each trial is a run like
    any other, in OUT/<row>/seed-<n>. Killed, the same command goes on: finished runs are not run again, begun ones continue
    from their checkpoint.

    \b
      alextrain ablate --study --seeds 3                            # the paper's own, on ImageNet: weeks
      alextrain ablate --vary norm=true,false --vary lr=0.003,0.01 --epochs 10 --jobs 2
    """
    from alexprep.experiment.ablation.ablation import Ablation
    from alexprep.experiment.ablation.grid import grid
    from alexprep.experiment.ablation.grid import study as study_of
    from alexprep.experiment.config import collect
    from alexprep.pipeline.preparation.job import Part

    if study == bool(vary) or (only and not study):
        raise click.UsageError("give either --study (with or without --only) or --vary")
    with wrong_values():
        given = collect(preset, config, options, assignments)
        rows = study_of(given, only) if study else grid(given, vary)
        job = Ablation(rows, directory, out, seeds=seeds, at_once=jobs, part=Part.parse(part))
    if job.todo and not table:
        _train(job)
    _show(job, as_json=as_json)
    _end(job)


def _train(job: Any) -> None:  # noqa: ANN401  (an Ablation, imported late)
    say(f"{len(job.trials)} runs, {len(job.todo)} of them to be done here, {job.at_once} at a time")
    bar = Bar("ablate", len(job.todo), "runs")
    for done, trial in enumerate(job, 1):
        if trial.failure:
            say(f"{trial.label}: failed: {trial.failure}")
        bar.at(done, trial.label)
    bar.close()


def _show(job: Any, *, as_json: bool) -> None:  # noqa: ANN401  (an Ablation, imported late)
    from alexprep.experiment.ablation.table import markdown

    table = job.table()
    done = len(job.finished())
    if done:
        say(f"{done} of {len(job.trials)} runs are finished: {job.write_table()}")
    if as_json:
        print_json(table)
    elif done:
        click.echo(markdown(table), nl=False)


def _end(job: Any) -> None:  # noqa: ANN401  (an Ablation, imported late)
    """Exit with the code of the signal that stopped the job; DataError if runs failed."""
    from alexprep.experiment.process.signals import REQUEUE
    from alexprep.pipeline import DataError

    from ..interrupts import INTERRUPTED

    if job.stopped:
        say(f"stopped by {job.stopped}; run the same command again to continue")
        raise SystemExit(INTERRUPTED if job.stopped == "SIGINT" else REQUEUE)
    if job.failed:
        raise DataError(f"{len(job.failed)} runs failed: " + "; ".join(f"{label}: {why}" for label, why in job.failed.items()))
