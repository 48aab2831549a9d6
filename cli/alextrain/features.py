"""`alextrain features`: write the last hidden vectors of a split."""

from pathlib import Path

import click

from ..options import CHECKPOINT, DATA, DEVICE, SPLIT, Grouped, cache_options, cached, check_place
from ..progress import Bar


@click.command(cls=Grouped)
@CHECKPOINT
@DATA
@SPLIT
@DEVICE
@cache_options
@click.option("--out", default=Path("features.parquet"), show_default=True, type=click.Path(path_type=Path), help="Parquet file to write.")
def features(checkpoint: Path, data: Path, split: str | None, device: str, cache: Path | None, cache_size: int, out: Path) -> None:
    """Write the last hidden vectors of a split as parquet.

    They are fc7 of the centre views, 4096 numbers an image at width 1. Columns: record, key, label, features (a list of float32).
    Row groups are written one after the other, so that any number of records fits.
    """
    from alexprep.experiment.measuring.features import write_features
    from alexprep.experiment.process.launch import alone
    from alexprep.experiment.splits import split_or_default
    from alexprep.model.distributed import joined
    from alexprep.pipeline import read_manifest

    check_place(out, ".parquet")
    manifest = read_manifest(data)
    with joined(alone(device).device) as ranks:
        count, width = write_features(checkpoint, manifest, split_or_default(manifest, split), ranks, cached(cache, cache_size), out, Bar)
    click.echo(f"{out}: {count:,} vectors of {width} numbers")
