"""Regions of a mask as polygons, one for each, whose pixels come back exactly.

The outline of a region runs through its outer pixels, `INSET` inside their edges. A reader that rounds
coordinates down to pixels and fills with the border (OpenCV's `fillPoly`, as YOLO's tools do) therefore draws
the region's own pixels, and so does one that asks which pixel centres lie inside.

A polygon has no holes and no parts, so a region's outlines are joined into one that runs along them there and
back: a hole is reached by a horizontal cut from its top left corner to the left, and pixels that touch at a
corner by a step across that corner. A cut runs over the region's own pixels and has no width.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from dataengine.masks import Mask, components

INSET = 0.1
"""Pixels: small, and more than the six decimals of a normalised coordinate are wrong by."""

Point = tuple[float, float]


def region_polygons(mask: Mask) -> list[NDArray[np.float64]]:
    """(x, y) in pixels, float64 N×2 with N ≥ 4, of every 8-connected region of a bool HW, in scan order."""
    regions, count = components(mask)
    corners = _corners(np.asarray(mask, dtype=bool))
    outlines = _Outlines(corners, np.asarray(mask, dtype=bool))
    roots: dict[int, int] = {}
    for corner in np.lexsort((corners.row, corners.column))[::-1].tolist():
        roots[int(regions[corners.pixel(corner)])] = corner
    return [np.array(list(outlines.walk(roots[number]))) for number in range(1, count + 1)]


@dataclass(frozen=True)
class _Corners:
    """Corners of outlines on the grid of pixel edges: row 0…H, column 0…W, and the direction (±1) in which
    the outline is inset there, towards a pixel of the region."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    down: NDArray[np.int64]
    right: NDArray[np.int64]

    def pixel(self, corner: int) -> tuple[int, int]:
        """The region's pixel (row, column) that a corner is inset towards."""
        return (
            int(self.row[corner] + (self.down[corner] - 1) // 2),
            int(self.column[corner] + (self.right[corner] - 1) // 2),
        )


def _corners(mask: NDArray[np.bool_]) -> _Corners:
    padded = np.pad(mask, 1)
    around = {
        (-1, -1): padded[:-1, :-1],
        (-1, 1): padded[:-1, 1:],
        (1, -1): padded[1:, :-1],
        (1, 1): padded[1:, 1:],
    }
    inside = sum(each.astype(np.int8) for each in around.values())
    diagonal = (inside == 2) & (around[-1, -1] == around[1, 1])
    parts = []
    for (down, right), pixel in around.items():
        # One pixel of the region, or two that touch here only, each with a corner of its own; else all but
        # the pixel opposite.
        at = (pixel & ((inside == 1) | diagonal)) | (~around[-down, -right] & (inside == 3))
        row, column = np.nonzero(at)
        parts.append((row, column, np.full(row.size, down), np.full(row.size, right)))
    return _Corners(*(np.concatenate(each).astype(np.int64) for each in zip(*parts, strict=True)))


@dataclass
class _Outlines:
    """The closed outlines of a mask, and where they are joined."""

    corners: _Corners
    mask: NDArray[np.bool_]
    along: list[int] = field(init=False)
    """The corner at the other end of each corner's horizontal edge."""
    across: list[int] = field(init=False)
    """The same of its vertical edge."""
    outline: list[int] = field(init=False)
    """The outline that each corner is on."""
    touching: dict[int, int] = field(init=False)
    """The corner of another outline of the same region at the same place."""
    cuts: dict[int, list[tuple[float, int]]] = field(init=False)
    """By the upper corner of a vertical edge: cuts that end on it, as their height and the hole's corner."""

    def __post_init__(self) -> None:
        c = self.corners
        self.along = _partners(np.lexsort((c.right, c.column, c.row)))
        by_column = np.lexsort((c.down, c.row, c.column))
        self.across = _partners(by_column)
        self.outline = self._numbered()
        by_place = np.lexsort((c.column, c.row))
        same = np.flatnonzero((np.diff(c.row[by_place]) == 0) & (np.diff(c.column[by_place]) == 0))
        self.touching = {}
        for a, b in zip(by_place[same].tolist(), by_place[same + 1].tolist(), strict=True):
            self.touching[a], self.touching[b] = b, a
        self.cuts = self._find_cuts(by_column)

    def _numbered(self) -> list[int]:
        outline = [-1] * len(self.along)
        for start in range(len(outline)):
            corner = start
            while outline[corner] < 0:
                outline[corner] = outline[self.along[corner]] = start
                corner = self.across[self.along[corner]]
        return outline

    def _find_cuts(self, by_column: NDArray[np.int64]) -> dict[int, list[tuple[float, int]]]:
        c = self.corners
        uppers = by_column[::2].tolist()
        edges: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for upper in uppers:
            rows, names = edges[int(c.column[upper])]
            rows.append(int(c.row[upper]))
            names.append(upper)
        cuts: dict[int, list[tuple[float, int]]] = defaultdict(list)
        seen: set[int] = set()
        # The leftmost corner of an outline, the topmost of these: of a hole it is inset up and to the left.
        for corner in np.lexsort((c.row, c.column)).tolist():
            if self.outline[corner] in seen:
                continue
            seen.add(self.outline[corner])
            if (c.down[corner], c.right[corner]) == (1, 1):
                continue
            row, column = int(c.row[corner]) - 1, int(c.column[corner])
            outside = np.flatnonzero(~self.mask[row, :column])
            rows, names = edges[int(outside[-1]) + 1 if outside.size else 0]
            cuts[names[bisect_right(rows, row) - 1]].append((row + 1 - INSET, corner))
        return cuts

    def point(self, corner: int) -> Point:
        c = self.corners
        return (
            float(c.column[corner] + INSET * c.right[corner]),
            float(c.row[corner] + INSET * c.down[corner]),
        )

    def walk(self, start: int) -> Iterator[Point]:
        """The points of one region from a corner of its outermost outline, once around everything."""
        seen = {self.outline[start]}
        stack = [self._steps(start, seen)]
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
            elif isinstance(step, int):
                seen.add(self.outline[step])
                stack.append(chain(self._steps(step, seen), [self.point(step)]))
            else:
                yield step

    def _steps(self, start: int, seen: set[int]) -> Iterator[Point | int]:
        """The points of one outline, and the corners at which others begin."""
        corner, horizontal = start, True
        while True:
            yield self.point(corner)
            other = self.touching.get(corner)
            if other is not None and self.outline[other] not in seen:
                yield other
                yield self.point(corner)
            if horizontal:
                corner = self.along[corner]
            else:
                yield from self._on_edge(corner, self.across[corner], seen)
                corner = self.across[corner]
            horizontal = not horizontal
            if corner == start:
                return

    def _on_edge(self, corner: int, end: int, seen: set[int]) -> Iterator[Point | int]:
        c = self.corners
        upper, downwards = (corner, True) if c.row[corner] < c.row[end] else (end, False)
        for height, hole in sorted(self.cuts.get(upper, ()), reverse=not downwards):
            if self.outline[hole] not in seen:
                at = (self.point(corner)[0], height)
                yield at
                yield hole
                yield at


def _partners(order: NDArray[np.int64]) -> list[int]:
    """Every corner's partner, where corners that follow each other in the order are pairs."""
    partner = np.empty(order.size, dtype=np.int64)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    found: list[int] = partner.tolist()
    return found
