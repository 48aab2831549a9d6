"""`alexprep verify`: check that a data set is what was written."""

import click

from ..data_options import DIRECTORY, WORKERS, verified
from ..options import JSON, Grouped
from ..progress import Bar
from ..text import print_json, say


@click.command(cls=Grouped)
@DIRECTORY
@click.option("--deep", is_flag=True, help="Check of every record and every sum, by decoding, in addition.")
@click.option("--duplicates", is_flag=True, help="List of records with the same bytes, and with nearly the same pixels in different splits.")
@WORKERS
@JSON
def verify(directory: str, deep: bool, duplicates: bool, workers: int | None, as_json: bool) -> None:
    """Check that shards are what was written.

    The SHA-256 of every shard in DIRECTORY (shards/, or $ALEXPREP_DATA), and its sidecar; exit code 1 if one differs. A flipped bit anywhere
    in a shard is found and named. `alexprep repair` makes damaged shards again.
    """
    from alexprep.pipeline.preparation.duplicates import DuplicateSearch
    from alexprep.pipeline.preparation.verify import strays
    from alexprep.pipeline.shards.manifest import read_manifest

    manifest = read_manifest(directory)
    check = verified(manifest, deep=deep, workers=workers)
    twins = []
    if duplicates and not check.problems:
        search = DuplicateSearch(manifest)
        bar = Bar("compare", search.total, "records")
        for done in search.run():
            bar.at(done)
        bar.close()
        twins = search.found
    if as_json:
        found, stray = [problem._asdict() for problem in check.problems], strays(manifest)
        print_json({"whole": not found, "deep": deep, "problems": found, "strays": stray, "duplicates": [twin._asdict() for twin in twins]})
    else:
        for problem in check.problems:
            click.echo(f"{problem.file}: {problem.what}")
        for twin in twins:
            click.echo(f"{twin.kind}: {'  '.join(twin.where)}")
        for name in strays(manifest):
            say(f"note: {name} is in no split of manifest.json (left over from another job?)")
    if check.problems:
        count = f"{len(check.damaged)} of {check.total} shards"
        raise click.ClickException(f"{directory}: {count} are damaged; alexprep repair --src SRC makes them again")
    if not as_json:
        records = sum(split.records for split in manifest.splits.values())
        how = "every record decoded, every sum recomputed" if deep else "every SHA-256 and sidecar checked"
        click.echo(f"{directory}: {records:,} records in {check.total} shards are as written ({how})")
        if duplicates:
            click.echo(f"{len(twins)} groups of duplicates")
