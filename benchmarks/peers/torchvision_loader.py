"""torch's DataLoader with torchvision's transforms: PIL images, or tensors from torchvision's own JPEG decoder."""

import os
from pathlib import Path
from typing import Any

import torch
from loading import CROP, Epoch, epochs_of, main, samples
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

NORMALISE = [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]


class Records(Dataset):
    def __init__(self, records: Path, pil: bool) -> None:
        self.samples, self.pil = samples(records), pil
        self.transform = v2.Compose([v2.RandomCrop(CROP), v2.RandomHorizontalFlip(), *([v2.ToImage()] if pil else []), *NORMALISE])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        image = Image.open(path).convert("RGB") if self.pil else decode_jpeg(read_file(str(path)), ImageReadMode.RGB)
        return self.transform(image), label


def prepare(records: Path, out: Path) -> None:
    os.symlink(records, out)


def loader(pil: bool) -> Any:
    def make(out: Path, workers: int, batch: int) -> Epoch:
        torch.set_num_threads(1)
        options = {"num_workers": workers, "shuffle": True, "drop_last": True, "persistent_workers": True}
        made = DataLoader(Records(out.resolve(), pil), batch_size=batch, **options)
        return epochs_of(made)

    return make


if __name__ == "__main__":
    main({"jpeg PIL": loader(pil=True), "jpeg decode_jpeg": loader(pil=False)}, prepare)
