"""What the tests of sources ask of a source, and files of each shape."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from alexprep.pipeline.errors import DataError
from alexprep.pipeline.sources import find_source

from . import shapes
from .images import jpeg, picture

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


def splits_of(where, **options):
    return {listing.split: len(listing) for listing in find_source(where, **options).listings()}


def refusal(where, **options):
    with pytest.raises(DataError) as caught:
        find_source(where, **options)
    return str(caught.value)


def sample(number, label=0):
    return [(f"{number:03}.jpg", jpeg(picture(number))), (f"{number:03}.cls", str(label).encode())]


def wds(path, numbers, label=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    return shapes.tar([file for number in numbers for file in sample(number, label)], path)


def records(path, numbers, **features):
    path.parent.mkdir(parents=True, exist_ok=True)
    examples = [{"image": jpeg(picture(n)), "file_name": f"{n}.jpg".encode(), "label": n % 2} | features for n in numbers]
    return shapes.tfrecord([shapes.example(example) for example in examples], path)


def table(path, numbers, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = list(numbers)
    facts = {"image": [jpeg(picture(n)) for n in numbers], "filename": [f"{n}.jpg" for n in numbers], "label": [n % 2 for n in numbers]} | columns
    pq.write_table(pa.table(facts), path)
    return path


FILES = {"WebDataset": (wds, "tar"), "TFRecord": (records, "tfrecord"), "parquet": (table, "parquet")}


def hugging_face(path, features, **columns):
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}} | features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [jpeg(picture(n)) for n in range(3)]} | columns).replace_schema_metadata(metadata), path)


def names(*values):
    return {"names": list(values), "_type": "ClassLabel"}


def keys(where):
    return [key for key, _ in listed(find_source(where))["train"]]
