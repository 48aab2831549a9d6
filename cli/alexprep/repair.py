"""`alexprep repair`: make damaged shards again."""

from typing import Any

import click

from ..data_options import DIRECTORY, MAX_BAD, SRC, WORKERS, show, source_options, verified
from ..errors import wrong_values
from ..options import Grouped
from ..text import say


@click.command(cls=Grouped)
@DIRECTORY
@SRC
@source_options
@click.option("--deep", is_flag=True, help="Search by decoding every record, as verify --deep does.")
@WORKERS
@MAX_BAD
def repair(directory: str, src: str, reading: dict[str, Any], deep: bool, workers: int | None, max_bad: float) -> None:
    """Make damaged or missing shards again.

    The shards are those in DIRECTORY (shards/, or $ALEXPREP_DATA); SRC is the source that they were made from. Whole shards stay as they are.
    """
    from alexprep.pipeline.errors import DataError
    from alexprep.pipeline.preparation.job import ShardJob
    from alexprep.pipeline.preparation.plan import read_plan
    from alexprep.pipeline.preparation.repair import RepairJob, start_over
    from alexprep.pipeline.shards.manifest import read_manifest
    from alexprep.pipeline.sources import find_source
    from alexprep.pipeline.storage.uri import location

    folder = location(directory)
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        plan = read_plan(folder)
        if plan is None:
            raise
        say(f"note: {error}")
        with wrong_values():
            job = ShardJob(find_source(src, **reading), folder, plan.config, workers or 0, max_bad)
        show(start_over(job), job.total, "repair")
        click.echo(f"{directory}: finished")
        return
    check = verified(manifest, deep=deep, workers=workers)
    for problem in check.problems:
        say(f"{problem.file}: {problem.what}")
    with wrong_values():
        mending = RepairJob(find_source(src, **reading), manifest, check.damaged, workers or 0, max_bad)
    show(mending.run(), mending.total, "repair")
    click.echo(f"{directory}: {f'{len(check.damaged)} shards made again' if check.damaged else 'nothing to repair'}")
