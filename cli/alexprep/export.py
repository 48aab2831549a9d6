"""`alexprep export`: write a data set in another shape."""

from contextlib import closing
from pathlib import Path

import click

from ..data_options import DIRECTORY
from ..options import Grouped
from ..progress import Bar


@click.command(cls=Grouped)
@DIRECTORY
@click.option("--to", "shape", required=True, type=click.Choice(["parquet", "webdataset", "imagefolder", "ffcv-ready"]), help="Shape to write.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New folder to write.")
def export(directory: str, shape: str, out: Path) -> None:
    """Write a data set in another shape.

    The shards are those in DIRECTORY (shards/, or $ALEXPREP_DATA). Shapes: parquet; WebDataset tars; a folder of images; a folder
    with a script for FFCV's writer. JPEG records keep their bytes; raw ones become PNG. Each file is made from one shard, in order.
    """
    from alexprep.pipeline.preparation.export import export as write
    from alexprep.pipeline.shards.manifest import read_manifest

    manifest = read_manifest(directory)
    total = sum(split.records for split in manifest.splits.values())
    bar = Bar("export", total, "records")
    # click.Choice has checked the shape; closing, also at Ctrl-C, leaves no partial folder behind
    with closing(write(manifest, out, shape)) as writing:  # type: ignore[arg-type]
        for done in writing:
            bar.at(done)
    bar.close()
    click.echo(f"{out}: {total:,} records as {shape}")
