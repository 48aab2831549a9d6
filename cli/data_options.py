"""Options and printed output shared by several `alexprep` commands."""

from collections.abc import Iterable
from functools import wraps
from typing import Any

import click
from alexprep.pipeline.config import ShardConfig, hints_of

from .options import Decorator, option_of
from .progress import Bar

SRC = click.option("--src", required=True, help="Folder, file or URI of the raw images, in any shape that alexprep inspect lists.")
LABEL_ORDER = click.option(
    "--label-order",
    default="sorted",
    show_default=True,
    type=click.Choice(["sorted", "devkit", "source"]),
    help="Order of the labels. sorted: class ids; devkit: ILSVRC2012_ID, as in the 2012 code; source: the source's own numbers.",
)
FIRST_LABEL = click.option(
    "--first-label",
    type=click.IntRange(0, 1),
    help="Number of the first class in the source.  [default: 1 in slim's TFRecord, whose 0 is the background; else 0]",
)
SKIP_UNKNOWN = click.option(
    "--skip-unknown-classes", is_flag=True, help="Omission of images whose class the training split does not have; manifest.json counts them."
)


def shard_setting(name: str) -> Decorator:
    """Return the option of a field of ShardConfig, with its default."""
    return option_of(name, hints_of(ShardConfig)[name], default=getattr(ShardConfig, name), show_default=True)


def source_options(command: Any) -> Any:  # noqa: ANN401  (as click's decorators)
    """Add the options for reading a source. The command receives them as `reading`, the keyword arguments of `find_source`."""

    @wraps(command)
    def run(*arguments: Any, label_order: str, first_label: int | None, skip_unknown_classes: bool, **options: Any) -> Any:  # noqa: ANN401
        reading = {"label_order": label_order, "first_label": first_label, "skip_unknown_classes": skip_unknown_classes}
        return command(*arguments, reading=reading, **options)

    return LABEL_ORDER(FIRST_LABEL(SKIP_UNKNOWN(run)))


DIRECTORY = click.argument("directory", default="shards", envvar="ALEXPREP_DATA")
WORKERS = click.option("--workers", type=click.IntRange(1), help="Processes.  [default: one for each CPU of this process]")
MAX_BAD = click.option("--max-bad", default=0.01, show_default=True, type=click.FloatRange(0, 1), help="Share of unusable images that stops the job.")


def report(manifest: Any, seconds: float | None = None) -> None:  # noqa: ANN401  (a Manifest; its module is heavy to import)
    """Print the contents of a finished data set."""
    for name, split in manifest.splits.items():
        bad = f", {split.quarantined} quarantined" if split.quarantined else ""
        classes, shards = f"{len(manifest.classes):,} classes", f"{len(split.shards)} shard{'s' if len(split.shards) > 1 else ''}"
        click.echo(f"{name}: {split.records:,} records of {classes} in {shards}, {split.bytes / 1e6:,.1f} MB{bad}")
    for name, facts in manifest.left_out.items():
        click.echo(f"{name}: {facts['images']:,} images left out, of {len(facts['classes']):,} classes that are not in the training split")
    if any(split.quarantined for split in manifest.splits.values()):
        click.echo(f"reasons: {manifest.directory / 'quarantine.jsonl'}")
    click.echo(f"{manifest.directory / 'manifest.json'}" + (f" ({seconds:.1f} s)" if seconds is not None else ""))


def facts(manifest: Any) -> dict[str, Any]:  # noqa: ANN401  (a Manifest)
    """Return the contents of a finished data set, for JSON output."""
    return {
        name: {"records": split.records, "shards": len(split.shards), "quarantined": split.quarantined, "bytes": split.bytes}
        for name, split in manifest.splits.items()
    }


def show(steps: Iterable[Any], total: int, what: str) -> None:
    """Run a job under a progress bar. `steps` yields the Progress of the job."""
    bar = Bar(what, total, "images")
    for progress in steps:
        bar.at(progress.done, f"{progress.bad} bad" if progress.bad else "")
    bar.close()


def verified(manifest: Any, *, deep: bool, workers: int | None) -> Any:  # noqa: ANN401  (a Manifest; a Verification)
    """Verify a data set under a progress bar; return the Verification."""
    from alexprep.pipeline.preparation.verify import Verification

    check = Verification(manifest, deep=deep, workers=workers or 0)
    bar = Bar("verify", check.total, "shards")
    for done in check.run():
        bar.at(done, f"{len(check.problems)} problems" if check.problems else "")
    bar.close()
    return check
