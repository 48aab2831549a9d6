"""`alexprep` commands about sources and finished data sets: inspect, finalize, verify, repair, diff, append, export."""

from collections.abc import Iterable
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any

import click

from .common import Bar, print_json, say, wrong_values

SRC = click.option("--src", required=True, help="Folder, file or URI of the raw images, of any shape of ImageNet (alexprep inspect names them).")
LABEL_ORDER = click.option(
    "--label-order",
    default="sorted",
    show_default=True,
    type=click.Choice(["sorted", "devkit", "source"]),
    help="Order of the labels: the sorted class ids, the devkit's ILSVRC2012_ID as in the 2012 code, or the source's own numbers.",
)
FIRST_LABEL = click.option(
    "--first-label",
    type=click.IntRange(0, 1),
    help="Number of the first class in the source.  [default: 1 in slim's TFRecord, whose 0 is the background; else 0]",
)
SKIP_UNKNOWN = click.option(
    "--skip-unknown-classes", is_flag=True, help="Leave out images of classes that the training split does not have; manifest.json counts them."
)


def source_options(command: Any) -> Any:  # noqa: ANN401  (as click's decorators)
    """Add the options that say how a source is to be read; the command gets them as `reading`, the keywords of `find_source`."""

    @wraps(command)
    def run(*arguments: Any, label_order: str, first_label: int | None, skip_unknown_classes: bool, **options: Any) -> Any:  # noqa: ANN401
        reading = {"label_order": label_order, "first_label": first_label, "skip_unknown_classes": skip_unknown_classes}
        return command(*arguments, reading=reading, **options)

    return LABEL_ORDER(FIRST_LABEL(SKIP_UNKNOWN(run)))


ORDERS = {"sorted": "sorted ids", "devkit": "devkit order", "source": "the source's numbers"}
DIRECTORY = click.argument("directory", default="shards", envvar="ALEXPREP_DATA")
WORKERS = click.option("--workers", type=click.IntRange(1), help="Processes.  [default: the CPUs this process may use]")
MAX_BAD = click.option("--max-bad", default=0.01, show_default=True, type=click.FloatRange(0, 1), help="Share of unusable images that stops the job.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def report(manifest: Any, seconds: float | None = None) -> None:  # noqa: ANN401  (a Manifest; its module is heavy to import)
    """Print what a finished data set holds."""
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
    """Return what a finished data set holds, for machines."""
    return {
        name: {"records": split.records, "shards": len(split.shards), "quarantined": split.quarantined, "bytes": split.bytes}
        for name, split in manifest.splits.items()
    }


def show(steps: Iterable[Any], total: int, what: str) -> None:
    """Run a job, whose steps are Progress, under a progress bar."""
    bar = Bar(what, total, "images")
    for progress in steps:
        bar.at(progress.done, f"{progress.bad} bad" if progress.bad else "")
    bar.close()


@click.command()
@click.argument("src")
@source_options
@click.option("--find", metavar="KEY", help="Say where the image with this key (of a record, a quarantine entry) lies.")
@JSON
def inspect(src: str, reading: dict[str, Any], find: str | None, as_json: bool) -> None:
    """Say what SRC holds, before anything runs: shape, splits, counts, classes, label order, what is missing.

    Known shapes, recognised by content: class folders; ILSVRC's tars (a tar of class tars; validation images with the devkit,
    Kaggle's CSV or the table that comes along); flat validation folders; Kaggle's CLS-LOC; Hugging Face parquet; WebDataset;
    TFRecord of TFDS or slim. Nothing is unpacked.
    """
    from alexprep.pipeline.sources import find_source

    source, label_order = find_source(src, **reading), reading["label_order"]
    if find is not None:
        for listing in source.listings():
            row = listing.find(find)
            if row is not None:
                click.echo(source.readers[listing.split].where(listing.take_one(row)))
                return
        raise click.ClickException(f"{src} has no image with the key {find}")
    splits = {listing.split: {"images": len(listing), "classes": len(set(listing.labels.tolist()))} for listing in source.listings()}
    if as_json:
        value = {"source": src, "shape": source.shape, "splits": splits, "classes": source.classes, "label_order": label_order}
        print_json(value | {"left_out": source.left_out, "notes": source.notes()})
        return
    click.echo(f"shape        {source.shape}")
    for name, split in splits.items():
        click.echo(f"{name:<12} {split['images']:,} images of {split['classes']:,} classes")
    shown = ", ".join(f"{label} {name}" for label, name in enumerate(source.classes[:3]))
    last = f", ... {len(source.classes) - 1} {source.classes[-1]}" if len(source.classes) > 3 else ""
    click.echo(f"labels       {ORDERS[label_order]}: {shown}{last}")
    for listing in source.listings():
        click.echo(f"first key    {listing.keys[0].as_py().decode('utf-8', 'backslashreplace')}")
    for note in source.notes():
        click.echo(f"note         {note}")


@click.command()
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


@click.command()
@DIRECTORY
@click.option("--deep", is_flag=True, help="Decode every record and recompute every sum too.")
@click.option("--duplicates", is_flag=True, help="List records with the same bytes, and nearly the same pixels in different splits.")
@WORKERS
@JSON
def verify(directory: str, deep: bool, duplicates: bool, workers: int | None, as_json: bool) -> None:
    """Check that DIRECTORY is what was written: the SHA-256 of every shard, and its sidecar. Exit code 1 if not.

    A flipped bit anywhere in a shard is found and named. `alexprep repair` makes damaged shards again.
    """
    from alexprep.pipeline.preparation.duplicates import DuplicateSearch
    from alexprep.pipeline.preparation.verify import strays
    from alexprep.pipeline.shards.manifest import read_manifest

    manifest = read_manifest(directory)
    check = _checked(manifest, deep=deep, workers=workers)
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


@click.command()
@DIRECTORY
@SRC
@source_options
@click.option("--deep", is_flag=True, help="Decode every record to find damage, as verify --deep does.")
@WORKERS
@MAX_BAD
def repair(directory: str, src: str, reading: dict[str, Any], deep: bool, workers: int | None, max_bad: float) -> None:
    """Make damaged or missing shards of DIRECTORY again, and only those, from the source that they were made from."""
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
    check = _checked(manifest, deep=deep, workers=workers)
    for problem in check.problems:
        say(f"{problem.file}: {problem.what}")
    with wrong_values():
        mending = RepairJob(find_source(src, **reading), manifest, check.damaged, workers or 0, max_bad)
    show(mending.run(), mending.total, "repair")
    click.echo(f"{directory}: {f'{len(check.damaged)} shards made again' if check.damaged else 'nothing to repair'}")


def _checked(manifest: Any, *, deep: bool, workers: int | None) -> Any:  # noqa: ANN401  (a Manifest; a Verification)
    """Verify a data set under a progress bar."""
    from alexprep.pipeline.preparation.verify import Verification

    check = Verification(manifest, deep=deep, workers=workers or 0)
    bar = Bar("verify", check.total, "shards")
    for done in check.run():
        bar.at(done, f"{len(check.problems)} problems" if check.problems else "")
    bar.close()
    return check


@click.command()
@click.argument("a")
@click.argument("b")
@JSON
def diff(a: str, b: str, as_json: bool) -> None:
    """Say what is different between the data sets A and B: records added, removed, relabelled, re-encoded. Exit code 1 if anything is.

    Records are matched by key. Re-encoded means that the stored image has other bytes.
    """
    from alexprep.pipeline.preparation.diff import difference
    from alexprep.pipeline.shards.manifest import read_manifest

    first, second = read_manifest(a), read_manifest(b)
    splits = list(dict.fromkeys([*first.splits, *second.splits]))
    found = {split: difference(first, second, split) for split in splits}
    parameters = {name: (getattr(first.config, name), getattr(second.config, name)) for name in vars(first.config)}
    changed = {name: values for name, values in parameters.items() if values[0] != values[1]}
    if as_json:
        print_json({"splits": {split: value._asdict() for split, value in found.items()}, "parameters": changed})
    else:
        for name, (before, after) in changed.items():
            click.echo(f"{name}: {before} -> {after}")
        for split, value in found.items():
            click.echo(
                f"{split}: {len(value.added)} added, {len(value.removed)} removed, {len(value.relabelled)} relabelled, "
                f"{len(value.reencoded)} re-encoded, {value.same} the same"
            )
            _examples("+", value.added)
            _examples("-", value.removed)
            _examples("label", [f"{key}: {before} -> {after}" for key, before, after in value.relabelled])
            _examples("bytes", value.reencoded)
    if changed or any(value[:4] != ([], [], [], []) for value in found.values()):
        raise click.exceptions.Exit(1)


def _examples(mark: str, items: list[str], count: int = 10) -> None:
    for item in items[:count]:
        click.echo(f"  {mark} {item}")
    if len(items) > count:
        click.echo(f"  {mark} ... {len(items) - count} more (--json has all)")


@click.command()
@DIRECTORY
@SRC
@source_options
@WORKERS
@MAX_BAD
def append(directory: str, src: str, reading: dict[str, Any], workers: int | None, max_bad: float) -> None:
    """Add the images of SRC to the finished data set in DIRECTORY: new shards beside the old ones, whose bytes stay as they are.

    Its classes must be among those of the data set, its images new. Run alexprep stats again afterwards: the sums are merged.
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


@click.command()
@DIRECTORY
@click.option("--to", "shape", required=True, type=click.Choice(["parquet", "webdataset", "imagefolder", "ffcv-ready"]), help="Shape to write.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder.")
def export(directory: str, shape: str, out: Path) -> None:
    """Write the data set in DIRECTORY as parquet, WebDataset tars, a folder of images, or a folder with a script for FFCV's writer.

    JPEG records keep their bytes; raw ones become PNG. Every file out is one shard in, so that order is kept.
    """
    from alexprep.pipeline.preparation.export import export as write
    from alexprep.pipeline.shards.manifest import read_manifest

    manifest = read_manifest(directory)
    total = sum(split.records for split in manifest.splits.values())
    bar = Bar("export", total, "records")
    with closing(write(manifest, out, shape)) as writing:  # type: ignore[arg-type]  # click.Choice; closed at Ctrl-C, too, it leaves nothing
        for done in writing:
            bar.at(done)
    bar.close()
    click.echo(f"{out}: {total:,} records as {shape}")


COMMANDS = (inspect, finalize, verify, repair, diff, append, export)
