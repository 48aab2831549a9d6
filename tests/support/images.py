"""Small images that the tests draw themselves."""

import io

import numpy as np
from PIL import Image


def jpeg(image, **options):
    """The bytes of `image` (uint8 array) as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


def saved(image, **options):
    """The bytes of `image` as a JPEG, with Pillow's own options."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **options)
    return file.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(seed, height=70, width=90):
    """A smooth, colourful image: JPEG keeps it close."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def make_images(root, counts):
    """Write a folder of small JPEGs: counts is {"train/cat": 5, ...}."""
    for below, count in counts.items():
        (root / below).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / below / f"{number:03}.JPEG").write_bytes(jpeg(picture(hash_of(below) + number)))
    return root


def hash_of(text):
    return sum(text.encode()) * 1000
