"""Shapes in pixel coordinates become masks: polygons, rectangles and ellipses, turned or not.

The pixel in row r and column c has its centre at (c + ½, r + ½) and is marked if that lies inside. Rectangles
and ellipses are exact; polygons are rasterised by COCO's own code, which rounds vertices to a fifth of a
pixel, so that a polygon is the same mask in every format.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import MaskRefused
from dataengine.masks import Mask

BAND = 1 << 18
"""Pixels that are computed at once."""
DECIMALS = 6
"""Coordinates are rounded to these decimals of a pixel: percentages hold no edge more exactly."""

Floats = NDArray[np.float64]
Inside = Callable[[Floats, Floats], NDArray[np.bool_]]


def fill_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Mask:
    """Bool `HW` of polygons `[x, y, x, y, …]` of three points or more, joined."""
    from pycocotools import mask as coco

    # The C code trusts coordinates, so they are clipped first.
    kept = [
        np.clip(np.asarray(p, dtype=np.float64).reshape(-1, 2), -1, (width + 1, height + 1)).ravel().tolist()
        for p in polygons
    ]
    drawn = coco.decode(coco.merge(coco.frPyObjects(kept, height, width)))
    return np.asarray(drawn, dtype=bool)


def fill_rectangle(x: float, y: float, w: float, h: float, degrees: float, height: int, width: int) -> Mask:
    """Bool `HW` of the rectangle with corner (x, y) and sides (w, h), turned clockwise about that corner.

    The edges at the corner belong to it. Raises `MaskRefused` for negative sides.
    """
    if min(w, h) < 0:
        raise MaskRefused("its sides are negative")

    def inside(u: Floats, v: Floats) -> NDArray[np.bool_]:
        return (u >= 0) & (u < round(w, DECIMALS)) & (v >= 0) & (v < round(h, DECIMALS))

    corners = _turned(np.array([0, w, w, 0]), np.array([0, 0, h, h]), degrees)
    return _filled(inside, x, y, degrees, corners, height, width)


def fill_ellipse(x: float, y: float, a: float, b: float, degrees: float, height: int, width: int) -> Mask:
    """Bool `HW` of the ellipse with centre (x, y) and half-axes (a, b), turned clockwise about its centre.

    Raises `MaskRefused` for negative half-axes.
    """
    if min(a, b) < 0:
        raise MaskRefused("its half-axes are negative")

    def inside(u: Floats, v: Floats) -> NDArray[np.bool_]:
        # Multiplied out, so that an axis of zero needs no case of its own.
        return ((u * b) ** 2 + (v * a) ** 2 <= (a * b) ** 2) & (min(a, b) > 0)

    corners = _turned(np.array([-a, a, a, -a]), np.array([-b, -b, b, b]), degrees)
    return _filled(inside, x, y, degrees, corners, height, width)


def _turned(u: Any, v: Any, degrees: float) -> tuple[Any, Any]:
    """(u, v) turned by this angle; clockwise on the screen, whose y points down."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return u * cosine - v * sine, u * sine + v * cosine


def _filled(
    inside: Inside,
    x: float,
    y: float,
    degrees: float,
    corners: tuple[Floats, Floats],
    height: int,
    width: int,
) -> Mask:
    """Where `inside` holds in the frame at (x, y) that is turned; `corners` bound it, relative to (x, y)."""
    mask = np.zeros((height, width), dtype=bool)
    left, right = (_within(x + side, width) for side in (corners[0].min(), corners[0].max()))
    top, bottom = (_within(y + side, height) for side in (corners[1].min(), corners[1].max()))
    columns = np.arange(left, min(width, right + 1)) + 0.5 - x
    step = max(1, BAND // max(1, columns.size))
    for start in range(top, min(height, bottom + 1), step):
        rows = np.arange(start, min(height, bottom + 1, start + step)) + 0.5 - y
        u, v = _turned(columns[None, :], rows[:, None], -degrees)
        marked = inside(np.round(u, DECIMALS), np.round(v, DECIMALS))
        mask[start : start + rows.size, left : left + columns.size] = marked
    return mask


def _within(value: float, side: int) -> int:
    return int(max(0.0, min(float(side), math.floor(value))))
