"""FFCV's Loader, on the same JPEG bytes (its own writer would encode them again) and on the same raw pixels."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from loading import CROP, MEAN, STD, Epoch, epochs_of, main, samples
from PIL import Image


class JpegField(RGBImageField):
    """Stores the bytes that it is given."""

    def encode(self, destination: Any, image: bytes, malloc: Any) -> None:
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["height"] = destination["width"] = 256
        destination["data_ptr"], storage = malloc(len(image))
        storage[:] = np.frombuffer(image, np.uint8)


class Records:
    def __init__(self, records: Path, raw: bool) -> None:
        self.samples, self.raw = samples(records), raw

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        data = path.read_bytes()
        return (np.array(Image.open(io.BytesIO(data)).convert("RGB")) if self.raw else data), label


def prepare(records: Path, out: Path) -> None:
    out.mkdir()
    for name, field in (("jpeg", JpegField(write_mode="jpg")), ("raw", RGBImageField(write_mode="raw"))):
        writer = DatasetWriter(str(out / f"{name}.beton"), {"image": field, "label": IntField()}, num_workers=1)
        writer.from_indexed_dataset(Records(records, name == "raw"))


def loader(name: str, channels_last: bool) -> Any:
    def make(out: Path, workers: int, batch: int) -> Epoch:
        # A square of 224/256 of the side: the crop is not resized, only copied. FFCV has no plain random crop.
        decoder = RandomResizedCropRGBImageDecoder((CROP, CROP), scale=((CROP / 256) ** 2,) * 2, ratio=(1.0, 1.0))
        image = [decoder, RandomHorizontalFlip(), NormalizeImage(MEAN, STD, np.float32), ToTensor(), ToTorchImage(channels_last=channels_last)]
        pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]}
        options = {
            "custom_fields": {"image": RGBImageField},
            "num_workers": workers,
            "order": OrderOption.RANDOM,
            "os_cache": True,
            "drop_last": True,
        }
        made = Loader(str(out / f"{name}.beton"), batch_size=batch, pipelines=pipelines, **options)
        return epochs_of(made)

    return make


if __name__ == "__main__":
    kinds = {f"{name} {layout}": loader(name, layout == "channels_last") for name in ("jpeg", "raw") for layout in ("CHW", "channels_last")}
    main(kinds, prepare)
