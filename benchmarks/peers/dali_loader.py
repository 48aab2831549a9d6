"""DALI alone: its own file reader, decoder and random numbers."""

import os
from pathlib import Path

from loading import CROP, MEAN, STD, Epoch, epochs_of, main
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIClassificationIterator, LastBatchPolicy


@pipeline_def
def graph(records: str, device: str = "cpu"):
    data, label = fn.readers.file(file_root=records, random_shuffle=True, name="reader", dont_use_mmap=False)
    image = fn.decoders.image(data, device=device)
    image = fn.crop_mirror_normalize(
        image,
        crop=(CROP, CROP),
        crop_pos_x=fn.random.uniform(range=(0.0, 1.0)),
        crop_pos_y=fn.random.uniform(range=(0.0, 1.0)),
        mirror=fn.random.coin_flip(),
        mean=MEAN.tolist(),
        std=STD.tolist(),
        dtype=types.FLOAT,
    )
    return image, label


def prepare(records: Path, out: Path) -> None:
    os.symlink(records, out)


def make(out: Path, workers: int, batch: int) -> Epoch:
    pipeline = graph(records=str(out.resolve()), batch_size=batch, num_threads=workers, device_id=None, seed=1)
    loader = DALIClassificationIterator(pipeline, reader_name="reader", last_batch_policy=LastBatchPolicy.DROP, auto_reset=True)
    return epochs_of(loader, lambda batches: batches[0]["data"])


if __name__ == "__main__":
    main({"jpeg": make}, prepare)
