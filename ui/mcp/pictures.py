"""Images for an assistant: small enough to be sent, alone, under their artifact map, or in pairs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dataengine.images import decode, encode_png
from dataengine.masks import overlay_confidence

SIDE = 768
"""Longest side of an image that is sent."""
PAIR_SIDE = 256
GAP = 8

Pixels = NDArray[np.uint8]


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """uint8 `HWC` or `HW` with no side longer than `side`."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(image)


def plain_png(file: bytes) -> bytes:
    """An image file as a small PNG."""
    return encode_png(shrunk(decode(file), SIDE))


def map_png(file: bytes, confidence: Pixels) -> bytes:
    """An image file under its artifact map (8-bit `HW` of its size) as a small PNG."""
    return encode_png(shrunk(overlay_confidence(decode(file), confidence), SIDE))


def pairs_png(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Pairs of image files as one PNG: a row for each, before on the left, after on the right."""
    rows = [[shrunk(decode(file), PAIR_SIDE) for file in pair] for pair in pairs]
    cell = max(max(image.shape[:2]) for row in rows for image in row)
    sheet = np.full((len(rows) * (cell + GAP) - GAP, 2 * cell + GAP, 3), 255, np.uint8)
    for at, row in enumerate(rows):
        for column, image in enumerate(row):
            top, left = at * (cell + GAP), column * (cell + GAP)
            sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return encode_png(sheet)
