"""What the tests of sources ask of a source, and files of each shape."""

import os

from . import shapes

SHAPES = {
    "flat validation folder": shapes.flat_folder,
    "tars": shapes.tars,
    "tars and devkit": lambda splits, root: shapes.tars(splits, root, devkit=True),
    "Kaggle": shapes.kaggle,
    "parquet": shapes.parquet,
    "parquet of bytes": shapes.bytes_parquet,
    "WebDataset": shapes.webdataset,
    "TFDS": shapes.tfds,
    "slim": shapes.slim,
}


def listed(source):
    return {listing.split: [(os.fsdecode(key), source.classes[label]) for key, label, _ in listing.rows()] for listing in source.listings()}


def every_image(source):
    return {key: source.read(listing.split, place) for listing in source.listings() for key, _, place in listing.rows()}
