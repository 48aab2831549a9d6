"""`alexprep shard`: pack raw images into shards."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import click
from alexprep.pipeline.config import ShardConfig
from alexprep.pipeline.storage.uri import location

from ..data_options import MAX_BAD, SRC, WORKERS, facts, report, shard_setting, show, source_options
from ..errors import wrong_values
from ..options import JSON, Grouped, group
from ..text import print_json, say


@click.command(cls=Grouped)
@group("Source and result", SRC, source_options, click.option("--out", default="shards", show_default=True, help="Folder or URI for the shards."))
@group("Records", *(shard_setting(name) for name in ("size", "encoding", "quality", "subsampling", "records_per_shard")))
@group(
    "Work",
    WORKERS,
    MAX_BAD,
    click.option("--part", default="1/1", metavar="I/N", help="Share of the shards to make: the I-th of N; alexprep finalize ends the job."),
    click.option(
        "--engine", default="processes", show_default=True, type=click.Choice(["processes", "ray", "dask"]), help="Engine that makes the shards."
    ),
    click.option("--cluster", metavar="ADDRESS", help="Address of a running Ray or Dask cluster.  [default: one on this machine, for this job]"),
)
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
    """Resize images to squares and pack them into shards.

    SRC is class folders, ImageNet's tars, Kaggle's download, parquet, WebDataset or TFRecord; all give the same shards. After a kill or
    a crash, the same command continues; on a finished folder it does nothing. The bytes do not depend on the number of workers. Files
    that are no usable image are listed with the reason in OUT/quarantine.jsonl.
    """
    from alexprep.pipeline.preparation.process_pool import prepare

    if not src or not out:
        raise click.UsageError("--src or --out is empty; give a folder or URI for both")
    if Path(os.path.realpath(out)).is_relative_to(os.path.realpath(src)):
        raise click.UsageError(f"--out {out} lies inside --src {src}: the shards would become part of their own source")
    if engine == "processes":
        prepare()  # before the imports below: its own take as long, at the same time
    from alexprep.pipeline.preparation.job import Part, ShardJob
    from alexprep.pipeline.sources import find_source

    start = time.monotonic()
    with wrong_values():
        # click.Choice has checked encoding and subsampling
        config = ShardConfig(size, encoding, quality, records_per_shard, subsampling)  # type: ignore[arg-type]
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
    """Return a function that makes the engine for a number of workers."""
    from alexprep.pipeline.preparation.executors import DaskEngine, RayEngine, Workers

    if name == "processes":
        if cluster is not None:
            raise ValueError("--cluster needs --engine ray or --engine dask")
        return Workers
    return partial(RayEngine if name == "ray" else DaskEngine, cluster=cluster)
