"""timm's own dataset, transforms and loader, in the variant that works ahead into the next epoch; its prefetcher needs CUDA."""

import os
from pathlib import Path

import torch
from loading import CROP, Epoch, epochs_of, main
from timm.data import create_dataset, create_loader


def prepare(records: Path, out: Path) -> None:
    os.symlink(records, out)


def make(out: Path, workers: int, batch: int) -> Epoch:
    torch.set_num_threads(1)
    dataset = create_dataset("", root=str(out.resolve()), split="train", is_training=True)
    # A square of 224/256 of the side: the crop is not resized, only copied. All of timm's random crops are resized ones.
    crop = {"scale": ((CROP / 256) ** 2,) * 2, "ratio": (1.0, 1.0)}
    options = {"color_jitter": None, "use_prefetcher": False, "use_multi_epochs_loader": True, "device": torch.device("cpu")}
    loader = create_loader(dataset, input_size=CROP, batch_size=batch, is_training=True, num_workers=workers, **crop, **options)
    return epochs_of(loader)


if __name__ == "__main__":
    main({"jpeg": make}, prepare)
