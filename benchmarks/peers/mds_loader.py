"""MosaicML Streaming's StreamingDataset in torch's DataLoader, with torchvision's transforms."""

import io
from pathlib import Path
from typing import Any

import torch
from loading import CROP, Epoch, epochs_of, main, samples
from PIL import Image
from streaming import MDSWriter, StreamingDataset
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision_loader import NORMALISE


class Records(StreamingDataset):
    def __init__(self, out: Path, batch: int) -> None:
        super().__init__(local=str(out), shuffle=True, batch_size=batch)
        self.transform = v2.Compose([v2.RandomCrop(CROP), v2.RandomHorizontalFlip(), v2.ToImage(), *NORMALISE])

    def __getitem__(self, index: int) -> tuple[Any, int]:
        sample = super().__getitem__(index)
        return self.transform(Image.open(io.BytesIO(sample["image"])).convert("RGB")), sample["label"]


def prepare(records: Path, out: Path) -> None:
    with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}) as writer:
        for path, label in samples(records):
            writer.write({"image": path.read_bytes(), "label": label})


def make(out: Path, workers: int, batch: int) -> Epoch:
    torch.set_num_threads(1)
    loader = DataLoader(Records(out, batch), batch_size=batch, num_workers=workers, drop_last=True, persistent_workers=True)
    return epochs_of(loader)


if __name__ == "__main__":
    main({"jpeg": make}, prepare)
