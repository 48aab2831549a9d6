"""Define a batch in plain, slow numpy; tests check that both engines equal it bit for bit.

In:  records, config, statistics, step.    Out: float32 images.
"""

import numpy as np
from jaxtyping import Float32, UInt8

from ..config import LoaderConfig
from ..imaging.codec import decode_record
from ..shards.reader import Records
from ..shards.stats import Stats
from .augment import colour_shift, draws
from .sampler import Sampler


def batch(records: Records, config: LoaderConfig, stats: Stats, step: int) -> Float32[np.ndarray, "..."]:
    """Return the images of `step` as `Loader` yields them. Their shape is (b, 3, crop, crop), or (b, 10, 3, crop, crop) for ten views."""
    random, room = config.view == "random", records.manifest.config.size - config.crop
    epoch, numbers = Sampler.of(len(records), config)(step)
    drawn = draws(config.seed, epoch, numbers, room, mirror=config.mirror)
    shifts = np.zeros((len(numbers), 3), np.float32)
    if random and config.colour:
        shifts = colour_shift(drawn.alpha, config.colour, stats.colours.eigenvalues, stats.colours.eigenvectors)
    middle = room // 2
    five = [(0, 0), (0, room), (room, 0), (room, room), (middle, middle)]
    fixed = [(top, left, False) for top, left in five] + [(top, room - left, True) for top, left in five]
    result = []
    for i, number in enumerate(numbers.tolist()):
        image = records.image(number)
        image = decode_record(image) if image.ndim == 1 else image
        if random:
            windows = [(int(drawn.top[i]), int(drawn.left[i]), bool(drawn.flip[i]))]
        else:
            windows = fixed if config.view == "ten" else [(middle, middle, False)]
        views = [view(image, (top, left), flip, shifts[i], config, stats) for top, left, flip in windows]
        result.append(np.stack(views) if config.view == "ten" else views[0])
    return np.stack(result)


def view(
    image: UInt8[np.ndarray, "s s 3"],
    corner: tuple[int, int],
    flip: bool,  # noqa: FBT001  (a draw, not a mode)
    shift: Float32[np.ndarray, "3"],
    config: LoaderConfig,
    stats: Stats,
) -> Float32[np.ndarray, "3 c c"]:
    """Return one view of one image; the order of operations is that of both engines."""
    top, left = corner
    pixels = image.astype(np.float32)
    if config.mean == "pixel":
        pixels = pixels - stats.mean_image
    pixels = pixels[top : top + config.crop, left : left + config.crop]
    if flip:
        pixels = pixels[:, ::-1]
    channel = stats.colours.mean.astype(np.float32) if config.mean == "channel" else np.zeros(3, np.float32)
    divide = config.divide if config.view == "random" and config.colour else 1.0
    scale = np.float32(1) / np.float32(divide)
    pixels = (pixels - (channel - shift)) * scale
    if config.mean == "center":
        start = (stats.mean_image.shape[0] - config.crop) // 2
        pixels = pixels - stats.mean_image[start : start + config.crop, start : start + config.crop] * scale
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
