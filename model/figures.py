"""Pictures of a run: the first layer's kernels as pixels, curves as SVG."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor


def kernels(weight: Float[Tensor, "c 3 k k"], columns: int = 16, scale: int = 4) -> UInt8[np.ndarray, "h w 3"]:
    """Return the first layer's kernels as the paper's figure 3 shows them: the first tower's rows above the second's.

    Each kernel is stretched to 0..255 by itself, so that form and colour can be seen whatever its size.
    """
    w = weight.detach().float().cpu().numpy().transpose(0, 2, 3, 1)
    low, high = (f(w, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    pixels = (255 * (w - low) / np.maximum(high - low, 1e-12)).round().astype(np.uint8)
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    half = len(pixels) // 2
    towers = [_grid(tower, min(columns, half)) for tower in (pixels[:half], pixels[half:])]
    gap = np.full((6 * scale, towers[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([towers[0], gap, towers[1]])


def _grid(tiles: UInt8[np.ndarray, "n h w 3"], columns: int) -> UInt8[np.ndarray, "hh ww 3"]:
    rows = -(-len(tiles) // columns)
    padded = np.pad(tiles, ((0, rows * columns - len(tiles)), (2, 2), (2, 2), (0, 0)), constant_values=255)
    _, h, w, _ = padded.shape
    return padded.reshape(rows, columns, h, w, 3).transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, 3)


Curve = tuple[str, Sequence[float], Sequence[float]]  # label, x, y


def curves(lines: Sequence[Curve], *, x: str, y: str, log: bool = False) -> str:
    """Return an SVG plot of `lines`, to be put into a page: transparent, in the page's own text colour."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "alexprep", **dict.fromkeys(_INKED, _INK)}):
        return _svg(lines, x, y, log=log).replace(_INK, "currentColor")


_INK = "#010203"  # becomes the page's text colour, light or dark
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")


def _svg(lines: Sequence[Curve], x: str, y: str, *, log: bool) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for (label, xs, ys), colour in zip(lines, ("#3b7dd8", "#d8593b", "#3ba55d"), strict=False):
        axes.plot(xs, ys, label=label, color=colour, linewidth=1.5, marker="o" if len(xs) < 40 else None, markersize=3)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axes.legend(frameon=False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
