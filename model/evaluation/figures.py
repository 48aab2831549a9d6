"""Draw the first layer's kernels and measure each tower's share of colour (paper, figure 3)."""

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor


def kernels(weight: Float[Tensor, "c 3 k k"], towers: int = 2, columns: int = 16, scale: int = 4) -> UInt8[np.ndarray, "h w 3"]:
    """Return the first layer's kernels as in the paper's figure 3: the first tower's rows on top.

    Each kernel is stretched to 0..255 separately, so that its form and colour are visible whatever its scale.
    """
    w = weight.detach().float().cpu().numpy().transpose(0, 2, 3, 1)
    low, high = (f(w, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    pixels = (255 * (w - low) / np.maximum(high - low, 1e-12)).round().astype(np.uint8)
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    share = len(pixels) // towers
    grids = [_grid(pixels[tower * share : (tower + 1) * share], min(columns, share)) for tower in range(towers)]
    gap = np.full((6 * scale, grids[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for grid in grids for part in (gap, grid)][1:])


def chroma(weight: Float[Tensor, "c 3 k k"], towers: int = 2) -> list[float]:
    """Return each tower's share of colour in its kernels, between 0 (grey) and 1.

    It is |w - mean over R, G, B| / |w|. "The kernels on GPU 1 are largely color-agnostic, while the
    kernels on GPU 2 are largely color-specific" (paper, section 6.1).
    """
    parts = weight.detach().double().cpu().chunk(towers)
    return [float((part - part.mean(1, keepdim=True)).norm() / part.norm().clamp_min(1e-30)) for part in parts]


def _grid(tiles: UInt8[np.ndarray, "n h w 3"], columns: int) -> UInt8[np.ndarray, "hh ww 3"]:
    rows = -(-len(tiles) // columns)
    padded = np.pad(tiles, ((0, rows * columns - len(tiles)), (2, 2), (2, 2), (0, 0)), constant_values=255)
    _, h, w, _ = padded.shape
    return padded.reshape(rows, columns, h, w, 3).transpose(0, 2, 1, 3, 4).reshape(rows * h, columns * w, 3)
