"""Export data sets as parquet, WebDataset, a folder of images, or a folder for FFCV's writer.

In:  a manifest.    Out: a new folder, published whole or not at all.

JPEG records keep their bytes; raw records become PNG, which is lossless.
"""

import io
import json
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from ..names import safe_part
from ..shards.manifest import Manifest
from ..shards.reader import Records
from ..shards.stats import check_written
from ..storage.files import published_folder
from ..storage.uri import Location, RemotePath

ExportFormat = Literal["parquet", "webdataset", "imagefolder", "ffcv-ready"]
ROW_GROUP = 100  # images per row group; about the size that the Hub's viewer wants


class Image(NamedTuple):
    """One record to export."""

    data: bytes  # JPEG or PNG
    extension: str
    label: int
    class_id: str
    key: str

    @property
    def filename(self) -> str:
        """The file name of the source image."""
        return self.key.split("/", 2)[-1]


def export(manifest: Manifest, out: Location, shape: ExportFormat) -> Generator[int, None, None]:
    """Write `manifest`'s data set to the new folder `out`; yield how many records are done.

    Raise DataError if `out` exists already, or if a shard is not as it was written: no damage is exported.
    """
    if isinstance(out, RemotePath):
        raise DataError(f"{out}: an export is written to a local folder; copy it from there")
    write = {"parquet": _parquet, "webdataset": _webdataset, "imagefolder": _imagefolder, "ffcv-ready": _ffcv_ready}[shape]
    with published_folder(out) as folder:
        for split in manifest.splits:
            check_written(manifest, split)
        done = 0
        for split in manifest.splits:
            for _ in write(manifest, split, folder):
                done += 1
                yield done
        if shape == "ffcv-ready":
            (folder / "write_beton.py").write_text(WRITE_BETON)
            (folder / "classes.json").write_text(json.dumps(manifest.classes))


def _images(records: Records, first: int, count: int) -> Iterator[Image]:
    raw = records.manifest.config.encoding == "raw"
    for record in range(first, first + count):
        image = records.image(record)
        data = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes() if raw else image.tobytes()
        label = int(records.labels(np.array([record]))[0])
        yield Image(data, "png" if raw else "jpg", label, records.manifest.classes[label], records.key(record))


def _by_shard(manifest: Manifest, split: str) -> Iterator[tuple[str, Iterator[Image]]]:
    """Yield (name without extension, images) of each shard, to write one file per shard."""
    records = Records(manifest, split)
    first, shards = 0, [shard for shard in records.shards if shard.rows]
    for number, shard in enumerate(shards):
        yield _plain(f"{split}-{number:05}-of-{len(shards):05}"), _images(records, first, shard.rows)
        first += shard.rows


def _parquet(manifest: Manifest, split: str, out: Path) -> Iterator[None]:
    """Write the columns image (struct<bytes, path>), label and key, with Hugging Face's features.

    The features let `datasets` and the Hub show images and class names.
    """
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(manifest.classes), "_type": "ClassLabel"},
        "key": {"dtype": "string", "_type": "Value"},
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", image), ("label", pa.int64()), ("key", pa.string())], metadata={"huggingface": json.dumps({"info": {"features": features}})}
    )
    (out / "data").mkdir(exist_ok=True)
    for name, images in _by_shard(manifest, split):
        # JPEG and PNG do not get smaller: compression would only cost time.
        with pq.ParquetWriter(out / "data" / f"{name}.parquet", schema, compression="none", use_dictionary=False) as writer:
            rows: list[dict[str, Any]] = []
            for item in images:
                rows.append({"image": {"bytes": item.data, "path": item.filename}, "label": item.label, "key": item.key})
                if len(rows) == ROW_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
                yield
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))


def _webdataset(manifest: Manifest, split: str, out: Path) -> Iterator[None]:
    """Write samples numbered within their tar: jpg or png, cls and json. cls is the label; json has label, class, file name and key."""
    for name, images in _by_shard(manifest, split):
        with tarfile.open(out / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, item in enumerate(images):
                facts = {"label": item.label, "wnid": item.class_id, "filename": item.filename, "key": item.key}
                parts = {item.extension: item.data, "cls": str(item.label).encode(), "json": json.dumps(facts).encode()}
                for extension, data in parts.items():
                    member = tarfile.TarInfo(f"{number:08}.{extension}")
                    member.size, member.mode = len(data), 0o444
                    archive.addfile(member, io.BytesIO(data))
                yield


def _imagefolder(manifest: Manifest, split: str, out: Path) -> Iterator[None]:
    """Write <split>/<class>/<file name>, as torchvision's ImageFolder reads it."""
    for class_id in manifest.classes:
        (out / _plain(split) / _plain(class_id)).mkdir(parents=True, exist_ok=True)
    for _, images in _by_shard(manifest, split):
        for item in images:
            name = "/".join(_plain(part) for part in item.filename.split("/"))
            path = out / split / item.class_id / (name if item.extension == "jpg" else f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(item.data)
            yield


def _ffcv_ready(manifest: Manifest, split: str, out: Path) -> Iterator[None]:
    """Write <split>/<label, five digits>/<number>.jpg, for the script that calls FFCV's writer.

    The numbers follow the stored order, whatever the order of the labels.
    """
    for label in range(len(manifest.classes)):
        (out / _plain(split) / f"{label:05}").mkdir(parents=True, exist_ok=True)
    number = 0
    for _, images in _by_shard(manifest, split):
        for item in images:
            (out / split / f"{item.label:05}" / f"{number:08}.{item.extension}").write_bytes(item.data)
            number += 1
            yield


def _plain(part: str) -> str:
    """Return one part of a path; DataError if it would lead out of the folder."""
    try:
        return safe_part(part, "the split, class or record")
    except ValueError as error:
        raise DataError(f"{error}; export to parquet or webdataset instead") from error


WRITE_BETON = '''"""Write train.beton, val.beton, ... from this folder, with FFCV: python write_beton.py [jpg|raw]"""

import sys
from pathlib import Path

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter
from PIL import Image


class Images:
    """The images of one split in the order of their numbers, as FFCV wants them: pixels, label."""

    def __init__(self, folder):
        self.paths = sorted(folder.glob("*/*"), key=lambda path: path.name)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return np.asarray(Image.open(self.paths[i]).convert("RGB")), int(self.paths[i].parent.name)


if __name__ == "__main__":
    here, mode = Path(__file__).parent, sys.argv[1] if len(sys.argv) > 1 else "jpg"
    for split in sorted(path for path in here.iterdir() if path.is_dir()):
        fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=95), "label": IntField()}
        DatasetWriter(str(here / f"{split.name}.beton"), fields).from_indexed_dataset(Images(split))
'''
