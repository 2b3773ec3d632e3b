"""What an image looks like in 192 numbers: its colours, and where its edges run. Needs no model.

Two images are alike as far as both distributions agree. `make bench-similarity` compares this description
with detector encoders and plain pixels; docs/benchmarks.md has the figures.
"""

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import InputRefused

APPEARANCE = "appearance"
"""The name under which these features are stored."""
GRID = 64
SHADES = 4
CELLS, DIRECTIONS = 4, 8
COLOURS = SHADES**3
LENGTH = COLOURS + CELLS * CELLS * DIRECTIONS
TOP = 127


def appearance(image: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Features int8 (192,) in [0, 127] of a uint8 HW3 image of any size.

    The first 64 are the square roots of a histogram of colours (four shades of each channel), the other 128
    those of histograms of oriented gradients in 4×4 cells (Dalal and Triggs 2005), both over a 64×64 grid.
    The distance of two roots is that of Hellinger (Arandjelović and Zisserman 2012).
    """
    small = shrink_to_grid(image)
    parts = _colours(small), _edges(small.mean(axis=2))
    return np.rint(TOP * np.sqrt(np.concatenate(parts))).astype(np.int8)


def centred(vectors: NDArray[np.int8]) -> NDArray[np.float32]:
    """Features int8 N×192 less their mean, colours and edges each of length √½, float32 N×192.

    The product of two rows is a similarity in [−1, 1]: 1 for equal images, on average 0 for two of the set.
    """
    values = vectors.astype(np.float32)
    values -= values.mean(axis=0) if len(values) > 1 else 0
    for part in (values[:, :COLOURS], values[:, COLOURS:]):
        length = np.linalg.norm(part, axis=1, keepdims=True)
        part *= np.divide(np.sqrt(0.5), length, out=np.zeros_like(length), where=length > 0)
    return values


def shrink_to_grid(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean colours on a 64×64 grid, float32 in [0, 255]; a side below 64 repeats some pixels. Raises
    `InputRefused` for what is no uint8 HW3 image."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputRefused(f"an image is uint8 of shape H×W×3, got {image.dtype} {image.shape}")
    values = image.astype(np.float32)
    for axis, side in enumerate(image.shape[:2]):
        starts = np.arange(GRID) * side // GRID
        # Where an index repeats, `reduceat` gives that one pixel.
        counts = np.maximum(np.diff([*starts, side]), 1).astype(np.float32)
        values = np.add.reduceat(values, starts, axis=axis)
        values /= counts.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    return values


def _colours(small: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shares of the pixels by colour, (64,)."""
    shades = np.minimum(small * SHADES / 256, SHADES - 1).astype(np.intp)
    codes = (shades @ np.array([SHADES * SHADES, SHADES, 1])).ravel()
    return np.bincount(codes, minlength=COLOURS) / codes.size


def _edges(grey: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shares of the gradient by cell and direction modulo 180°, (128,)."""
    down, right = np.gradient(grey)
    turns = np.arctan2(down, right) % np.pi / np.pi
    direction = np.minimum(turns * DIRECTIONS, DIRECTIONS - 1).astype(np.intp)
    cell = np.arange(GRID) // (GRID // CELLS)
    codes = (cell[:, None] * CELLS + cell) * DIRECTIONS + direction
    strength = np.bincount(
        codes.ravel(), weights=np.hypot(down, right).ravel(), minlength=CELLS * CELLS * DIRECTIONS
    )
    return strength / max(strength.sum(), 1e-6)
