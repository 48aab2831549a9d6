"""Draw the augmentation: records with the crops that training takes from them, and its views.

In:  records, and a `LoaderConfig` per epoch.    Out: rows, as one image or one HTML page.
"""

import base64
import html
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ..batches.sampler import shuffled
from ..config import LoaderConfig
from ..errors import DataError
from ..shards.reader import Records
from ..shards.stats import Stats
from .replay import Receipt, receipt_of, sample

_GAP = 6  # white pixels between pictures
_SWATCH = 16  # pixels a side of a swatch: mid-grey plus the view's colour shift
MOST_PIXELS = 100_000_000  # pixels of a sheet, at most: about a gigabyte while it is drawn
_RED = (255, 40, 40)


@dataclass(frozen=True, eq=False)
class SampleRow:
    """One record, and its view in each of several epochs."""

    original: UInt8[np.ndarray, "s s 3"]
    receipts: tuple[Receipt, ...]
    views: tuple[UInt8[np.ndarray, "c c 3"], ...]

    @property
    def framed(self) -> UInt8[np.ndarray, "s s 3"]:
        """The original with the crops drawn on it: the last in red, the others in white."""
        image = self.original.copy()
        for made, view in zip(self.receipts, self.views, strict=True):
            _frame(image, made.top, made.left, len(view), _RED if made is self.receipts[-1] else (255, 255, 255))
        return image


def rows(records: Records, configs: dict[int, LoaderConfig], stats: Stats, count: int) -> list[SampleRow]:
    """Return the first `count` records of the first epoch, with the view of each in every epoch.

    `configs` maps an epoch to its config. Raises DataError if there are no records, or if the sheet would be too large.
    """
    first, config = next(iter(configs.items()))
    count = min(count, len(records))
    if not count:
        raise DataError(f"{records.manifest.directory} has no records in {config.split}")
    pixels = count * (1 + len(configs)) * records.manifest.config.size**2
    if pixels > MOST_PIXELS:
        raise DataError(f"a sheet of {pixels / 1e6:,.0f} megapixels is too large (at most {MOST_PIXELS / 1e6:,.0f}): use fewer --records or --views")
    made = []
    for number in shuffled(config.seed, first, len(records))[:count].tolist():
        receipts = {epoch: receipt_of(records, config, stats, epoch, number) for epoch, config in configs.items()}
        views = tuple(sample(records, configs[epoch], stats, one) for epoch, one in receipts.items())
        made.append(SampleRow(records.pixels(number), tuple(receipts.values()), views))
    return made


def sheet(made: list[SampleRow]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the rows as one image; each view has a swatch (see `swatch`) in its corner."""
    lines = []
    for row in made:
        room = len(row.original) - len(row.views[0])
        pictures = [row.framed]
        for one, view in zip(row.receipts, row.views, strict=True):
            marked = view.copy()
            side = min(_SWATCH, len(view) // 4)
            marked[len(view) - side :, len(view) - side :] = swatch(one)
            pictures.append(np.pad(marked, _centred(room), constant_values=255))
        lines.append(np.concatenate([np.pad(picture, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for picture in pictures], 1))
    return np.concatenate(lines)


def swatch(made: Receipt) -> tuple[int, int, int]:
    """Return the RGB of mid-grey plus the view's colour shift."""
    red, green, blue = (int(min(255, max(0, round(128 + level)))) for level in made.shift)
    return red, green, blue


def page(made: list[SampleRow], title: str) -> str:
    """Return the rows as one self-contained HTML page: every view with its receipt."""
    lines = []
    for row in made:
        first = row.receipts[0]
        key, name, shard = map(html.escape, (first.key, first.name, first.shard))
        where = f"{key}<br>{name} (label {first.label})<br>record {first.record}, {shard} row {first.row}"
        cells = [f"<figure><img alt='the record with its crops' src='{_data(row.framed)}'><figcaption>{where}</figcaption></figure>"]
        for one, view in zip(row.receipts, row.views, strict=True):
            colour, shift = "#{:02x}{:02x}{:02x}".format(*swatch(one)), ", ".join(f"{level:+.1f}" for level in one.shift)
            alphas = ", ".join(f"{alpha:+.2f}" for alpha in one.alphas)
            text = f"epoch {one.epoch}: top {one.top}, left {one.left}{', mirrored' if one.flip else ''}<br>alphas {alphas}<br>"
            text += f"<span class=swatch style='background:{colour}'></span> R, G, B {shift}"
            cells.append(f"<figure><img alt='view in epoch {one.epoch}' src='{_data(view)}'><figcaption>{text}</figcaption></figure>")
        lines.append(f"<section>{''.join(cells)}</section>")
    return _PAGE.format(title=html.escape(title), body="\n".join(lines))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem }}
section {{ display: flex; gap: 1rem; overflow-x: auto; padding: .5rem 0; border-bottom: 1px solid #8884 }}
figure {{ margin: 0; flex: none }} figcaption {{ max-width: 256px; overflow-wrap: anywhere; font-size: 12px }}
.swatch {{ display: inline-block; width: 1em; height: 1em; vertical-align: -.15em; border: 1px solid #888 }}
</style>
<h1>{title}</h1>
<p>Left: the record, with the crops of the views beside it (the last one's in red). Views are shown before the mean is subtracted.
The swatch is mid-grey with the view's colour shift.</p>
{body}
</html>
"""


def _data(image: UInt8[np.ndarray, "h w 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _centred(room: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    half = (room // 2, room - room // 2)
    return half, half, (0, 0)


def _frame(image: UInt8[np.ndarray, "s s 3"], top: int, left: int, crop: int, colour: tuple[int, int, int]) -> None:
    """Draw the outline of the crop, two pixels wide."""
    image[top : top + 2, left : left + crop] = image[top + crop - 2 : top + crop, left : left + crop] = colour
    image[top : top + crop, left : left + 2] = image[top : top + crop, left + crop - 2 : left + crop] = colour
