"""`alexprep finalize`: the manifest of a job that was made in parts."""

import click

from ..data_options import DIRECTORY, facts, report
from ..options import JSON, Grouped
from ..text import print_json


@click.command(cls=Grouped)
@DIRECTORY
@JSON
def finalize(directory: str, as_json: bool) -> None:
    """Write the manifest of DIRECTORY when every part of `alexprep shard --part i/n` is done.

    Needs no source: job.json says which shards there must be; the ones still missing are named.
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
