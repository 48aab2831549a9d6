"""LitData's StreamingDataset and StreamingDataLoader."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from litdata import StreamingDataLoader, StreamingDataset, optimize
from loading import Epoch, epochs_of, main, samples, view
from PIL import Image


def record(sample: tuple[Path, int]) -> dict[str, Any]:
    path, label = sample
    return {"image": path.read_bytes(), "label": label}


def prepare(records: Path, out: Path) -> None:
    optimize(record, samples(records), str(out), num_workers=1, chunk_bytes="64MB")


class Records(StreamingDataset):
    def __getitem__(self, index: Any) -> tuple[Any, int]:
        sample = super().__getitem__(index)
        return view(np.asarray(Image.open(io.BytesIO(sample["image"])).convert("RGB"))), sample["label"]


def make(out: Path, workers: int, batch: int) -> Epoch:
    loader = StreamingDataLoader(Records(str(out), shuffle=True, drop_last=True), batch_size=batch, num_workers=workers, persistent_workers=True)
    return epochs_of(loader)


if __name__ == "__main__":
    main({"jpeg": make}, prepare)
