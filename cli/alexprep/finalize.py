"""`alexprep finalize`: write the manifest of a job that was run in parts."""

import click

from ..data_options import DIRECTORY, facts, report
from ..options import JSON, Grouped
from ..text import print_json


@click.command(cls=Grouped)
@DIRECTORY
@JSON
def finalize(directory: str, as_json: bool) -> None:
    """Write the manifest after all parts of a job.

    Run it when every `alexprep shard --part i/n` into DIRECTORY is done. It needs no source: job.json lists the shards; missing ones are
    named.
    """
    from alexprep.pipeline.preparation.finalize import finalize as commit
    from alexprep.pipeline.storage.files import lock
    from alexprep.pipeline.storage.uri import location

    folder = location(directory)
    if not folder.is_dir():
        raise click.ClickException(f"no folder {directory}: run alexprep shard --part i/n first")
    with lock(folder):
        manifest = commit(folder)
    if as_json:
        print_json({"out": directory, "splits": facts(manifest)})
        return
    report(manifest)
