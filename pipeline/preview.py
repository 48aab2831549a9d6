"""A picture of the augmentation: originals with the crops that training takes from them, and what it sees."""

import numpy as np
from jaxtyping import UInt8

from . import reference
from .augment import colour_shift, draws
from .config import LoaderConfig
from .errors import DataError
from .images import decode_record
from .order import permutation
from .records import Records
from .stats import Stats

_GAP = 6  # white pixels between pictures


def sheet(records: Records, config: LoaderConfig, stats: Stats, rows: int, epochs: int) -> UInt8[np.ndarray, "h w 3"]:
    """Return `rows` records of the first epoch's order: the record, then its view in each of the first `epochs` epochs.

    The views are shown before the mean is subtracted, clipped to 0..255; in the record, the last view's crop is framed.
    """
    size, crop = records.manifest.config.size, config.crop
    if crop > size:
        raise DataError(f"crop {crop} does not fit into the records of {records.manifest.directory}, {size} pixels a side")
    lines = []
    for number in permutation(config.seed, 0, len(records))[:rows]:
        image = records.image(int(number))
        image = decode_record(image) if image.ndim == 1 else image
        line = [image.copy()]
        for epoch in range(epochs):
            drawn = draws(config.seed, epoch, np.array([number]), size - crop)
            shift = colour_shift(drawn.alpha, config.colour, stats.colours.eigenvalues, stats.colours.eigenvectors)[0]
            top, left = int(drawn.top[0]), int(drawn.left[0])
            plain = LoaderConfig(crop=crop, mean="none")
            view = reference.view(image, (top, left), bool(drawn.flip[0]), shift, plain, stats)
            line.append(np.pad(view.clip(0, 255).round().astype(np.uint8).transpose(1, 2, 0), _centred(size - crop), constant_values=255))
            if epoch == epochs - 1:
                _frame(line[0], top, left, crop)
        lines.append(np.concatenate([np.pad(picture, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for picture in line], 1))
    return np.concatenate(lines)


def _centred(room: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    half = (room // 2, room - room // 2)
    return half, half, (0, 0)


def _frame(image: UInt8[np.ndarray, "s s 3"], top: int, left: int, crop: int) -> None:
    """Draw the crop's outline, two pixels wide, in red."""
    red = (255, 40, 40)
    image[top : top + 2, left : left + crop] = image[top + crop - 2 : top + crop, left : left + crop] = red
    image[top : top + crop, left : left + 2] = image[top : top + crop, left + crop - 2 : left + crop] = red
