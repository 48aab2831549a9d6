"""`alexprep stats`: compute the mean image and the colour statistics."""

import click

from ..data_options import DIRECTORY
from ..options import Grouped
from ..progress import Bar
from ..text import print_json


@click.command(cls=Grouped)
@DIRECTORY
@click.option("--pca", is_flag=True, help="Eigenvalues and eigenvectors of the RGB covariance, in addition.")
@click.option("--verify", is_flag=True, help="Check of every sum against the pixels; it must be the same integer.")
@click.option("--json", "as_json", is_flag=True, help="Content of stats.json on stdout.")
def stats(directory: str, pca: bool, verify: bool, as_json: bool) -> None:
    """Write the mean image and the colour statistics.

    They are those of the training split in DIRECTORY (shards/, or $ALEXPREP_DATA), added up from the sums that `alexprep shard` made:
    no second pass. The sums are over the finished records, after JPEG encoding, since training sees these.
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
