"""Draw a demo data set of ten learnable classes: a folder like ImageNet's, including its odd files.

In:  a number of images per class, and a seed.    Out: train/<class>/*.JPEG and val/<class>/*.JPEG.
"""

import io
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..storage.files import published_folder

CLASSES = ("bars", "checkers", "circle", "cross", "dots", "ring", "rungs", "square", "star", "triangle")
_SCALE = 2  # factor by which images are drawn larger, then scaled down for smooth edges
Colour = tuple[int, int, int]


def write_demo_data(directory: Path, train: int, val: int, seed: int) -> Generator[int, None, None]:
    """Draw `train` and `val` images per class, and the odd files.

    Yields the number of files written so far. The folder appears under its name only when it is
    complete. Raises DataError if the name is taken.
    """
    count = 0
    with published_folder(directory) as partial:
        for split, (images, stream) in {"train": (train, 0), "val": (val, 1)}.items():
            rng = np.random.default_rng([seed, stream])
            for name in CLASSES:
                folder = partial / split / name
                folder.mkdir(parents=True)
                for number in range(images):
                    save = _ODD.get((split, name, number), _save_jpeg)
                    (folder / f"{name}_{number:04}.JPEG").write_bytes(save(draw(name, rng)))
                    count += 1
                    yield count
        (partial / "train" / "square" / "readme.txt").write_text("a text file among the images\n")
    yield count + 1


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """Return one picture of class `name`.

    Its shape is large and near the centre, in two colours of different brightness, with a
    brightness gradient and noise.
    """
    width, height = (int(side) for side in rng.integers(240, 400, 2))
    paper, ink = _two_colours(rng)
    image = Image.new("RGB", (width * _SCALE, height * _SCALE), paper)
    side = min(width, height)
    radius = rng.uniform(0.28, 0.42) * side
    x, y = (half / 2 + rng.uniform(-0.08, 0.08) * side for half in (width, height))
    _SHAPES[name](ImageDraw.Draw(image), x * _SCALE, y * _SCALE, radius * _SCALE, ink, rng)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32)
    slope = np.add.outer(np.linspace(-1, 1, height) * rng.uniform(-25, 25), np.linspace(-1, 1, width) * rng.uniform(-25, 25))
    noise = rng.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(pixels + slope[:, :, None] + noise, 0, 255).astype(np.uint8))


def _two_colours(rng: np.random.Generator) -> tuple[Colour, Colour]:
    while True:
        a, b = rng.integers(20, 236, (2, 3))
        if abs(int(a.sum()) - int(b.sum())) > 220:
            return _colour(a), _colour(b)


def _colour(rgb: np.ndarray) -> Colour:
    red, green, blue = rgb.tolist()
    return red, green, blue


def _polygon(x: float, y: float, radii: list[float], turn: float) -> list[tuple[float, float]]:
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii)) + turn
    return [(x + r * float(np.sin(a)), y - r * float(np.cos(a))) for r, a in zip(radii, angles, strict=True)]


def _turn(rng: np.random.Generator) -> float:
    return float(rng.uniform(-0.25, 0.25))


def _bars(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    step = r / rng.uniform(2, 3)
    for left in np.arange(x - r, x + r, step):
        draw.rectangle((left, y - r, left + step / 2, y + r), ink)


def _rungs(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    step = r / rng.uniform(2, 3)
    for top in np.arange(y - r, y + r, step):
        draw.rectangle((x - r, top, x + r, top + step / 2), ink)


def _checkers(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    n = int(rng.integers(4, 7))
    step = 2 * r / n
    for i in range(n):
        for j in range(i % 2, n, 2):
            draw.rectangle((x - r + i * step, y - r + j * step, x - r + (i + 1) * step, y - r + (j + 1) * step), ink)


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    draw.ellipse((x - r, y - r * rng.uniform(0.9, 1), x + r, y + r), ink)


def _ring(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), outline=ink, width=int(r * rng.uniform(0.25, 0.4)))


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    half = r * rng.uniform(0.2, 0.32)
    draw.rectangle((x - half, y - r, x + half, y + r), ink)
    draw.rectangle((x - r, y - half, x + r, y + half), ink)


def _dots(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    n = int(rng.integers(3, 6))
    step = 2 * r / n
    for i in range(n):
        for j in range(n):
            left, top = x - r + i * step, y - r + j * step
            draw.ellipse((left, top, left + step * 0.6, top + step * 0.6), ink)


def _square(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    draw.polygon(_polygon(x, y, [r] * 4, np.pi / 4 + _turn(rng)), ink)


def _star(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    draw.polygon(_polygon(x, y, [r, r * 0.4] * 5, _turn(rng)), ink)


def _triangle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, rng: np.random.Generator) -> None:
    draw.polygon(_polygon(x, y, [r] * 3, _turn(rng)), ink)


ShapeDrawer = Callable[[ImageDraw.ImageDraw, float, float, float, Colour, np.random.Generator], None]
_SHAPES: dict[str, ShapeDrawer] = dict(
    zip(CLASSES, (_bars, _checkers, _circle, _cross, _dots, _ring, _rungs, _square, _star, _triangle), strict=True)
)


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _save_jpeg(image: Image.Image) -> bytes:
    return _bytes(image, "JPEG", quality=90)


def _save_rotated(image: Image.Image) -> bytes:
    """Save as an upright camera does: the pixels lie on their side, EXIF tag 0x0112 says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return _bytes(image.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=90, exif=exif)


# Odd files like ImageNet's, each in a class that stays the same (a rotated bar would be a rung).
_ODD: dict[tuple[str, str, int], Callable[[Image.Image], bytes]] = {
    ("train", "circle", 1): lambda image: _save_jpeg(image.convert("L")),
    ("val", "ring", 1): lambda image: _save_jpeg(image.convert("L")),
    ("train", "checkers", 2): lambda image: _save_jpeg(image.convert("CMYK")),
    ("val", "dots", 2): lambda image: _save_jpeg(image.convert("CMYK")),
    ("train", "dots", 3): lambda image: _bytes(image, "PNG"),
    ("train", "ring", 4): _save_rotated,
    ("val", "circle", 3): _save_rotated,
    ("train", "cross", 5): lambda image: _save_jpeg(image.resize((40, 32))),
    ("train", "star", 6): lambda image: _save_jpeg(image)[:-2000],
}
