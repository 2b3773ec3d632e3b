"""Polygons of regions: the region's own pixels come back, whoever fills them."""

import numpy as np
import pytest

from dataengine.masks import by_class, components
from pipelines.exchange.outlines import region_polygons
from tests.pipelines.exchange.labelled import label_maps


def filled(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bool HW: pixels whose centre is inside by the even-odd rule, written from its definition."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), dtype=bool)
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y1 != y2:
            crosses = (y1 > y) != (y2 > y)
            inside ^= crosses & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return inside


def touched(polygon: np.ndarray) -> set[tuple[int, int]]:
    """Pixels (row, column) that the outline runs through, sampled densely."""
    ends = np.roll(polygon, -1, axis=0)
    steps = np.linspace(0.0005, 0.9995, 60)[:, None, None]
    points = np.concatenate([(polygon + (ends - polygon) * steps).reshape(-1, 2), polygon])
    return {(int(y), int(x)) for x, y in np.unique(np.floor(points).astype(int), axis=0)}


def check(mask: np.ndarray) -> None:
    regions, count = components(mask)
    polygons = region_polygons(mask)
    assert len(polygons) == count
    for number, polygon in enumerate(polygons, start=1):
        region = regions == number
        assert len(polygon) >= 4
        assert np.array_equal(filled(polygon, *mask.shape), region)
        assert all(region[at] for at in touched(polygon)), "the outline leaves the region"


@pytest.mark.parametrize("name", label_maps())
def test_regions_of_label_maps_come_back(name: str) -> None:
    for mask in by_class(label_maps()[name]).values():
        check(mask)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_regions_of_noise_come_back(share: float) -> None:
    rng = np.random.default_rng(int(share * 10))
    for _ in range(20):
        check(rng.random(rng.integers(1, 12, 2)) < share)


def test_rings_in_rings_and_holes_that_touch_at_a_corner() -> None:
    y, x = np.mgrid[:41, :41]
    check(np.maximum(abs(y - 20), abs(x - 20)) % 4 < 2)
    chess = (y // 3 + x // 3) % 2 == 0
    check(chess)
    check(~chess)
    comb = np.ones((9, 30), bool)
    comb[1:-1, 1:-1:2] = False
    check(comb)


def test_a_plain_rectangle_has_four_corners_inside_its_edges() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 10:25] = True
    (polygon,) = region_polygons(mask)
    assert {(round(x, 6), round(y, 6)) for x, y in polygon} == {
        (10.1, 4.1), (24.9, 4.1), (24.9, 8.9), (10.1, 8.9),
    }  # fmt: skip
    assert region_polygons(np.zeros((3, 3), bool)) == []
