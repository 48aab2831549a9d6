"""`alexprep inspect`: print what a source holds."""

from typing import Any

import click

from ..data_options import source_options
from ..options import JSON, Grouped
from ..text import print_json

ORDERS = {"sorted": "sorted ids", "devkit": "devkit order", "source": "the source's numbers"}


@click.command(cls=Grouped)
@click.argument("src")
@source_options
@click.option("--find", metavar="KEY", help="Key of an image (of a record, of a quarantine entry) whose place is printed.")
@JSON
def inspect(src: str, reading: dict[str, Any], find: str | None, as_json: bool) -> None:
    """Print what a source holds, before anything runs.

    Shape, splits, counts, classes and the order of labels; notes say what is missing.

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
