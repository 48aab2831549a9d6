"""Draw one sample of a training run again, and record what made it: its receipt.

In:  records, a `LoaderConfig`, a step and an index in the batch.
Out: a `Receipt` (the record, and the draws of its view), and the sample's image.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..batches import reference
from ..batches.augment import colour_shift, draws
from ..batches.sampler import Sampler
from ..config import LoaderConfig
from ..errors import DataError
from ..shards.reader import Records
from ..shards.stats import Stats
from ..storage.files import published


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What made one sample of one step."""

    step: int  # counted from the start of epoch 0
    epoch: int
    index: int  # position in the global batch
    record: int  # record number in the split
    label: int
    name: str  # class name
    key: str  # key of the source image
    shard: str
    row: int  # row in the shard
    top: int  # crop offset, pixels
    left: int
    flip: bool
    alphas: tuple[float, float, float]  # standard normal, one per principal colour
    shift: tuple[float, float, float]  # resulting shift of R, G and B, grey levels
    instead_of: int | None = None  # the damaged record that this one replaces, if any

    def to_json(self) -> dict[str, Any]:
        """Return the receipt as a JSON object."""
        return asdict(self)


def receipt(records: Records, config: LoaderConfig, stats: Stats, step: int, index: int) -> Receipt:
    """Return the receipt of sample `index` in the global batch of `step`, for random views. Raises DataError if there is no such sample."""
    epoch, numbers = Sampler.of(len(records), replace(config, rank=0, world_size=1))(step)
    if not 0 <= index < len(numbers):
        raise DataError(f"a batch has {len(numbers)} samples, 0 to {len(numbers) - 1}; there is no sample {index}")
    number = int(numbers[index])
    if config.on_bad == "skip" and records.damage(number):
        instead = records.substitute(number)
        if instead is not None:
            return replace(receipt_of(records, config, stats, epoch, instead, step, index), instead_of=number)
    return receipt_of(records, config, stats, epoch, number, step, index)


def receipt_of(records: Records, config: LoaderConfig, stats: Stats, epoch: int, record: int, step: int = -1, index: int = -1) -> Receipt:
    """Return the receipt of a record in `epoch`, at whatever step it comes. Raises DataError if the crop does not fit."""
    room = records.manifest.config.size - config.crop
    if room < 0:
        raise DataError(
            f"crop {config.crop} does not fit into the records of {records.manifest.directory}, {records.manifest.config.size} pixels a side"
        )
    drawn = draws(config.seed, epoch, np.array([record]), room, mirror=config.mirror)
    shift = colour_shift(drawn.alpha, config.colour, stats.colours.eigenvalues, stats.colours.eigenvectors)[0]
    label = int(records.labels(np.array([record]))[0])
    shard, row = records.place(record)
    return Receipt(
        step=step,
        epoch=epoch,
        index=index,
        record=record,
        label=label,
        name=records.manifest.classes[label],
        key=records.key(record),
        shard=shard,
        row=row,
        top=int(drawn.top[0]),
        left=int(drawn.left[0]),
        flip=bool(drawn.flip[0]),
        alphas=tuple(drawn.alpha[0].tolist()),
        shift=tuple(shift.tolist()),
    )


def write_png(path: Path, image: UInt8[np.ndarray, "h w 3"], made: Receipt | None = None) -> None:
    """Publish `image` as a PNG file, with its receipt as the comment."""
    facts = PngInfo()
    if made is not None:
        facts.add_text("Comment", json.dumps(made.to_json()))
    with published(path) as file:
        Image.fromarray(image).save(file, "PNG", pnginfo=facts)


def sample(records: Records, config: LoaderConfig, stats: Stats, made: Receipt) -> UInt8[np.ndarray, "c c 3"]:
    """Return the sample for viewing: cropped, mirrored, with its colour shift, clipped to 0..255. No mean is subtracted."""
    plain = LoaderConfig(crop=config.crop, mean="none")
    shift = np.array(made.shift, np.float32)
    view = reference.view(records.pixels(made.record), (made.top, made.left), made.flip, shift, plain, stats)
    return np.ascontiguousarray(view.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0))
