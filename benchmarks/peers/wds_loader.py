"""WebDataset's WebDataset and WebLoader."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from loading import Epoch, epochs_of, main, samples, view
from PIL import Image


def prepare(records: Path, out: Path) -> None:
    out.mkdir()
    with webdataset.ShardWriter(str(out / "records-%05d.tar"), maxcount=256, verbose=0) as writer:
        for index, (path, label) in enumerate(samples(records)):
            writer.write({"__key__": f"{index:08d}", "jpg": path.read_bytes(), "cls": label})


def decoded(sample: dict[str, Any]) -> tuple[Any, int]:
    return view(np.asarray(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"))), int(sample["cls"])


def make(out: Path, workers: int, batch: int) -> Epoch:
    urls = sorted(map(str, out.glob("*.tar")))
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls)).shuffle(500).map(decoded).batched(batch, partial=False)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers, persistent_workers=True)
    return epochs_of(loader)


if __name__ == "__main__":
    main({"jpeg": make}, prepare)
