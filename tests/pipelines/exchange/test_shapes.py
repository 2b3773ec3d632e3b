"""Rectangles and ellipses against the definition, pixel by pixel; polygons against COCO's code and against
the exact test of each pixel's centre."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from dataengine.errors import MaskRefused
from pipelines.exchange.shapes import fill_ellipse, fill_polygons, fill_rectangle

HEIGHT, WIDTH = 30, 40
SOME = settings(max_examples=40, deadline=None)
FLOATS = st.floats(-60, 60, allow_subnormal=False)
SIDES = st.floats(0, 70, allow_subnormal=False)
ANGLES = st.floats(-360, 360, allow_subnormal=False)


def distance_to_edges(corners: list[tuple[float, float]], x: float, y: float) -> float:
    """The distance of a point to the nearest edge of a polygon."""
    found = []
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = (bx - ax) ** 2 + (by - ay) ** 2
        along = 0.0 if length == 0 else max(0, min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length))
        found.append(math.hypot(x - ax - along * (bx - ax), y - ay - along * (by - ay)))
    return min(found)


def is_inside(corners: list[tuple[float, float]], x: float, y: float) -> bool:
    """Whether a ray from the point to the right crosses an odd number of edges."""
    crossed = 0
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (ay > y) != (by > y):
            crossed += ax + (y - ay) / (by - ay) * (bx - ax) > x
    return crossed % 2 == 1


def agree(mask: np.ndarray, corners: list[tuple[float, float]], within: float) -> None:
    """Every pixel whose centre is further than `within` from an edge is marked as it lies."""
    for row in range(HEIGHT):
        for column in range(WIDTH):
            x, y = column + 0.5, row + 0.5
            if distance_to_edges(corners, x, y) > within:
                assert mask[row, column] == is_inside(corners, x, y), (row, column)


def turned(x: float, y: float, u: float, v: float, degrees: float) -> tuple[float, float]:
    """The offset (u, v) from (x, y), turned clockwise as a person sees it: y points down."""
    there = complex(u, v) * complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    return x + there.real, y + there.imag


@SOME
@given(FLOATS, FLOATS, SIDES, SIDES, ANGLES)
def test_rectangles_at_any_angle(x: float, y: float, w: float, h: float, degrees: float) -> None:
    corners = [turned(x, y, u, v, degrees) for u, v in ((0, 0), (w, 0), (w, h), (0, h))]
    agree(fill_rectangle(x, y, w, h, degrees, HEIGHT, WIDTH), corners, 1e-5)


@SOME
@given(FLOATS, FLOATS, SIDES, SIDES, ANGLES)
def test_ellipses_at_any_angle(x: float, y: float, a: float, b: float, degrees: float) -> None:
    assume(min(a, b) > 0.1)
    mask = fill_ellipse(x, y, a, b, degrees, HEIGHT, WIDTH)
    # An ellipse is where the distances to its foci add up to no more than its longer axis.
    focus = math.sqrt(abs(a * a - b * b))
    along = (focus, 0.0) if a >= b else (0.0, focus)
    ends = [turned(x, y, sign * along[0], sign * along[1], degrees) for sign in (1, -1)]
    for row in range(HEIGHT):
        for column in range(WIDTH):
            sum_ = sum(math.hypot(column + 0.5 - fx, row + 0.5 - fy) for fx, fy in ends)
            if abs(sum_ - 2 * max(a, b)) > 1e-4:
                assert mask[row, column] == (sum_ < 2 * max(a, b)), (row, column)


@SOME
@given(st.lists(st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)), min_size=3, max_size=8))
def test_polygons(corners: list[tuple[float, float]]) -> None:
    flat = [value for corner in corners for value in corner]
    mask = fill_polygons([flat], HEIGHT, WIDTH)
    assert np.array_equal(mask, coco.decode(coco.merge(coco.frPyObjects([flat], HEIGHT, WIDTH))))


@pytest.mark.parametrize(
    "corners",
    [
        [(3, 4), (20, 4), (20, 17), (3, 17)],
        [(9.6, 9.6), (28.8, 9.6), (28.8, 28.8)],
        [(5.2, 3.9), (33.1, 8.4), (37.7, 25.3), (12.4, 27.9), (20.2, 15.1)],
        [(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT)],
    ],
)
def test_polygons_against_the_exact_test_of_centres(corners: list[tuple[float, float]]) -> None:
    """COCO's code rounds vertices to a fifth of a pixel, so only centres that near to an edge may differ."""
    agree(fill_polygons([[value for one in corners for value in one]], HEIGHT, WIDTH), corners, 0.3)


def test_whole_pixels() -> None:
    mask = fill_rectangle(3, 4, 17, 13, 0, HEIGHT, WIDTH)
    assert mask[4:17, 3:20].all() and mask.sum() == 17 * 13
    assert np.array_equal(mask, fill_polygons([[3, 4, 20, 4, 20, 17, 3, 17]], HEIGHT, WIDTH))
    # A quarter turn clockwise about the corner: what pointed right points down.
    mask = fill_rectangle(20, 4, 13, 17, 90, HEIGHT, WIDTH)
    assert mask[4:17, 3:20].all() and mask.sum() == 17 * 13


def test_an_edge_through_centres_belongs_to_one_of_two_neighbours() -> None:
    left = fill_rectangle(2.5, 2.5, 4, 4, 0, HEIGHT, WIDTH)
    right = fill_rectangle(6.5, 2.5, 4, 4, 0, HEIGHT, WIDTH)
    assert left.sum() == right.sum() == 16 and not (left & right).any()


def test_percentages_do_not_shift_an_edge() -> None:
    for side in (37, 101, 333, 640):
        for edge in range(1, 30):
            x, w = 100 * edge / side, 100 * (edge + 0.5) / side
            mask = fill_rectangle(x * side / 100, 0, w * side / 100, 1, 0, 1, side)
            assert np.flatnonzero(mask).tolist() == list(range(edge, min(side, 2 * edge))), (side, edge)


def test_what_has_no_area() -> None:
    assert not fill_rectangle(3, 4, 0, 9, 30, HEIGHT, WIDTH).any()
    assert not fill_ellipse(3.5, 4.5, 0, 9, 30, HEIGHT, WIDTH).any()
    assert not fill_rectangle(500, 4, 10, 9, 0, HEIGHT, WIDTH).any()
    assert fill_ellipse(20, 15, 1e6, 1e6, 77, HEIGHT, WIDTH).all()
    with pytest.raises(MaskRefused, match="negative"):
        fill_rectangle(3, 4, -1, 9, 0, HEIGHT, WIDTH)
    with pytest.raises(MaskRefused, match="negative"):
        fill_ellipse(3, 4, 1, -9, 0, HEIGHT, WIDTH)
