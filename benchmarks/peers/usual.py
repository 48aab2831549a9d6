"""Code that the peers share: the files of a folder, and the code that their users write for each image."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image


def samples(src: Path) -> list[tuple[str, int]]:
    """Return every file with its label, the number of the folder's name among all of them."""
    files = sorted(path for path in src.rglob("*") if path.is_file())
    labels = {name: label for label, name in enumerate(sorted({path.parent.name for path in files}))}
    return [(str(path), labels[path.parent.name]) for path in files]


def square(path: str) -> Image.Image:
    """Scale the shorter side to 256, as torchvision's Resize(256) and CenterCrop(256) do to a Pillow image."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 256) // 2, (image.height - 256) // 2
    return image.crop((left, top, left + 256, top + 256))


def record(sample: tuple[str, int]) -> tuple[bytes, int]:
    """Return the JPEG and the label of one file."""
    path, label = sample
    data = io.BytesIO()
    square(path).save(data, "JPEG", quality=95)
    return data.getvalue(), label


def main(write: Callable[[Path, Path, int], tuple[int, float]]) -> None:
    """SRC OUT WORKERS -> {"images": ..., "seconds": ...}, on a line of its own after whatever the library prints."""
    src, out, workers = sys.argv[1:]
    images, seconds = write(Path(src), Path(out), int(workers))
    print("\n" + json.dumps({"images": images, "seconds": seconds}))
