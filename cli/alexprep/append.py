"""`alexprep append`: add images to a finished data set."""

from typing import Any

import click

from ..data_options import DIRECTORY, MAX_BAD, SRC, WORKERS, report, show, source_options
from ..errors import wrong_values
from ..options import Grouped
from ..text import say


@click.command(cls=Grouped)
@DIRECTORY
@SRC
@source_options
@WORKERS
@MAX_BAD
def append(directory: str, src: str, reading: dict[str, Any], workers: int | None, max_bad: float) -> None:
    """Add images to a finished data set.

    New shards with the images of SRC are written into DIRECTORY (shards/, or $ALEXPREP_DATA); the bytes of the old ones stay as they
    are. The classes must be among those of the data set, the images must be new. Run alexprep stats again afterwards.
    """
    from alexprep.pipeline.preparation.append import AppendJob
    from alexprep.pipeline.sources import find_source

    source = find_source(src, **reading)
    for note in source.notes():
        say(f"note: {note}")
    with wrong_values():
        job = AppendJob(source, directory, workers or 0, max_bad)
    if job.already:
        click.echo(f"{directory}: these images were appended before; nothing to do")
        return
    show(job.run(), job.total, "append")
    report(job.manifest)
