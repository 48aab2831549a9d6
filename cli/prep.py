"""`alexprep`: raw images to shards, and what is to be known about them. No command here needs torch."""

import os
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click
from alexprep.pipeline.config import ShardConfig
from alexprep.pipeline.storage.uri import location

from .bench import bench
from .common import Bar, Commands, print_json, say, wrong_values
from .doctor import doctor
from .samples import preview, replay
from .serve import serve
from .shards import COMMANDS, DIRECTORY, JSON, MAX_BAD, SRC, WORKERS, facts, report, show, source_options

HELP = {"help_option_names": ["-h", "--help"]}


@click.group(cls=Commands, context_settings=HELP)
@click.version_option(package_name="alexprep")
def main() -> None:
    """Turn raw ImageNet into shards of 256x256 records.

    \b
      alexprep shard --src imagenet/     # -> shards/
      alexprep stats --pca               # -> shards/stats.json
      alextrain run --gpus 2             # -> runs/1/
    """


@main.command()
@SRC
@click.option("--out", default="shards", show_default=True, help="Folder or URI for the shards.")
@click.option(
    "--encoding", default=ShardConfig.encoding, show_default=True, type=click.Choice(["jpeg", "raw"]), help="Of a record: JPEG or plain pixels."
)
@click.option("--size", default=ShardConfig.size, show_default=True, help="Pixels a side of a record.")
@click.option("--quality", default=ShardConfig.quality, show_default=True, help="Of JPEG records.")
@click.option(
    "--subsampling",
    default=ShardConfig.subsampling,
    show_default=True,
    type=click.Choice(["444", "420"]),
    help="Colour of JPEG records: in full, or at half size.",
)
@click.option("--records-per-shard", default=ShardConfig.records_per_shard, show_default=True, help="At most.")
@source_options
@WORKERS
@MAX_BAD
@click.option("--part", default="1/1", metavar="I/N", help="Make only the I-th of N shares of the shards; alexprep finalize ends the job.")
@click.option("--engine", default="processes", show_default=True, type=click.Choice(["processes", "ray", "dask"]), help="Who makes the shards.")
@click.option("--cluster", metavar="ADDRESS", help="Of a running Ray or Dask cluster.  [default: one on this machine, for this job]")
@JSON
def shard(
    src: str,
    out: str,
    encoding: str,
    size: int,
    quality: int,
    subsampling: str,
    records_per_shard: int,
    reading: dict[str, Any],
    workers: int | None,
    max_bad: float,
    part: str,
    engine: str,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Resize the images under SRC to squares and pack them into shards.

    SRC is class folders, ImageNet's tars, Kaggle's download, parquet, WebDataset or TFRecord; all give the same shards. Run again
    after a kill or a crash, it continues; on a finished folder it does nothing. The bytes do not depend on the number of
    workers. Files that are no usable image are listed with the reason in OUT/quarantine.jsonl.
    """
    from alexprep.pipeline.preparation.process_pool import prepare

    if not src or not out:
        raise click.UsageError("--src and --out must name something; one of them is empty")
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(src)):
        raise click.UsageError(f"--out {out} lies inside --src {src}: the shards would become part of their own source")
    if engine == "processes":
        prepare()  # before the imports below, which take as long as its own
    from alexprep.pipeline.preparation.job import Part, ShardJob
    from alexprep.pipeline.sources import find_source

    start = time.monotonic()
    with wrong_values():
        config = ShardConfig(size, encoding, quality, records_per_shard, subsampling)  # type: ignore[arg-type]  # click.Choice has checked it
        share, make_engine = Part.parse(part), _engine(engine, cluster)
    source = find_source(src, **reading)
    for note in source.notes():
        say(f"note: {note}")
    with wrong_values():
        job = ShardJob(source, location(out), config, workers or 0, max_bad, share, make_engine)
    show(job.run(), job.total, "shard")
    seconds = time.monotonic() - start
    if job.manifest is None:
        if as_json:
            print_json({"out": out, "part": part, "images": job.total, "seconds": round(seconds, 3)})
        else:
            click.echo(f"part {part} is done: {job.total:,} images ({seconds:.1f} s); after the last part: alexprep finalize {out}")
    elif as_json:
        print_json({"out": out, "splits": facts(job.manifest), "seconds": round(seconds, 3)})
    else:
        report(job.manifest, seconds)


def _engine(name: str, cluster: str | None) -> Any:  # noqa: ANN401  (makes an Engine)
    """Return what makes the engine from a number of workers."""
    from alexprep.pipeline.preparation.executors import DaskEngine, RayEngine, Workers

    if name == "processes":
        if cluster is not None:
            raise ValueError("--cluster needs --engine ray or --engine dask")
        return Workers
    return partial(RayEngine if name == "ray" else DaskEngine, cluster=cluster)


@main.command()
@DIRECTORY
@click.option("--pca", is_flag=True, help="Eigenvalues and eigenvectors of the RGB covariance too.")
@click.option("--verify", is_flag=True, help="Recompute every sum from the pixels; it must be the same integer.")
@click.option("--json", "as_json", is_flag=True, help="Print stats.json.")
def stats(directory: str, pca: bool, verify: bool, as_json: bool) -> None:
    """Write the mean image and the colour statistics of the training split in DIRECTORY (shards/, or $ALEXPREP_DATA).

    They are added up from what `alexprep shard` counted: no second pass. The pixels counted are those of the finished
    records, after JPEG encoding, since these are what training will see.
    """
    from alexprep.pipeline.shards.manifest import read_manifest
    from alexprep.pipeline.shards.stats import STATS, StatsCheck, compute_stats, write_stats

    manifest = read_manifest(directory)
    split = manifest.main_split
    found = compute_stats(manifest, split)
    if verify:
        check = StatsCheck(manifest, split)
        bar = Bar("verify", len(check.records), "records")
        for record in range(len(check.records)):
            check.count(record)
            bar.at(record + 1)
        bar.close()
        check.finish()
    value = write_stats(found, manifest, pca=pca)
    if as_json:
        print_json(value)
        return
    after = ", after JPEG encoding" if manifest.config.encoding == "jpeg" else ""
    click.echo(f"{found.images:,} images of {split}, {found.pixels:,} pixels (of the finished records{after})\n")
    click.echo("                 R          G          B")
    click.echo("mean     " + _row(value["mean"]))
    for name, row in zip("RGB", value["covariance"], strict=True):
        click.echo(f"cov {name}    " + _row(row))
    if pca:
        click.echo("\n  eigenvalue     sigma   eigenvector R       G       B")
        for variance, vector in zip(value["eigenvalues"], value["eigenvectors"], strict=True):
            click.echo(f"{variance:12.2f}{variance**0.5:10.3f}        " + "".join(f"{x:8.4f}" for x in vector))
    if verify:
        click.echo("\nverified: every sum recomputed from the pixels is the same integer")
    click.echo(f"\n{manifest.directory / STATS}")


def _row(values: list[float]) -> str:
    return "".join(f"{x:11.3f}" for x in values)


for command in (*COMMANDS, replay, preview, bench, serve, doctor):
    main.add_command(command)


@main.command("demo-data")
@click.option("--out", default=Path("imagenet"), show_default=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--train", default=60, show_default=True, type=click.IntRange(8, 10000), help="Training images a class.")
@click.option("--val", default=20, show_default=True, type=click.IntRange(4, 10000), help="Validation images a class.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Another seed draws other pictures.")
def demo_data(out: Path, train: int, val: int, seed: int) -> None:
    """Draw a small ImageNet-like folder: ten classes that can be learnt, with ImageNet's odd files mixed in.

    Grey, CMYK, EXIF-rotated and tiny JPEGs, a PNG named .JPEG, a truncated JPEG and a text file.
    """
    from alexprep.pipeline.inspection.demo_data import CLASSES, write_demo_data

    total = (train + val) * len(CLASSES) + 1
    bar = Bar("draw", total, "files")
    with closing(write_demo_data(out, train, val, seed)) as drawing:  # closed at Ctrl-C, too, it leaves nothing behind
        for count in drawing:
            bar.at(count)
    bar.close()
    click.echo(f"{out}: {len(CLASSES)} classes, {total} files in train/ and val/")


@main.command()
@click.option("--out", default=Path("demo"), show_default=True, type=click.Path(path_type=Path), help="Folder for all of it.")
def demo(out: Path) -> None:
    """Run the whole job on drawn pictures: data, shards, statistics, training, evaluation. Minutes on two cores."""
    from .demo import run_demo

    run_demo(out)
