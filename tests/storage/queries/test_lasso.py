"""The lasso: what it reads and refuses, and that SQL finds the places inside of any polygon."""

import numpy as np
import pytest

from dataengine.errors import InputRefused, NotFound
from storage.catalog import Catalog
from storage.queries.embedding_map import images_at, points_of_map
from storage.queries.facets import facet_counts
from storage.queries.images import (
    COUNT_LIMIT,
    PAGE,
    ImageFilter,
    conditions_of,
    count_of_images,
    page_of_images,
)
from storage.queries.lasso import MAX_CORNERS, MAX_TEXT, SIDE, Lasso, inside, parse_lasso
from storage.queries.selections import count_of_selection

SQUARE = "m1:0,0,40000,0,40000,40000,0,40000"
STAR = tuple(
    (
        int(32_000 + 30_000 * np.cos(0.5 + 4 * np.pi * k / 5)),
        int(32_000 + 30_000 * np.sin(0.5 + 4 * np.pi * k / 5)),
    )
    for k in range(5)
)


@pytest.fixture
def mapped(filled: Catalog) -> tuple[Catalog, dict[str, tuple[int, int]]]:
    """The filled catalog with a place for every image."""
    ids = [image.id for image in filled.images.find()]
    places = np.random.default_rng(0).integers(0, SIDE + 1, (len(ids), 2)).astype(np.uint16)
    filled.map_places.replace(
        "m1", [*ids, "erased since"], np.concatenate([places, [[1, 1]]]).astype(np.uint16)
    )
    return filled, dict(zip(ids, map(tuple, places.tolist()), strict=True))


def winds_oddly(point: tuple[int, int], corners: tuple[tuple[int, int], ...]) -> bool:
    """The even-odd rule, by an upward ray instead of the one to the right."""
    x, y = point
    crossings = 0
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if (x0 <= x) != (x1 <= x):
            crossings += y < y0 + (x - x0) * (y1 - y0) / (x1 - x0)
    return crossings % 2 == 1


@pytest.mark.parametrize(
    "wanted",
    [
        {"lowest": 0.3},
        {"highest": 0.9},
        {"lowest": 0.1, "highest": 0.8, "category": "hand"},
        {"label_class": 1},
        {"state": "unlabelled"},
        {"state": "returned"},
        {"tag": "x"},
        {"search": "hand"},
        {"detector_id": "d1", "lowest": 0.2},
        {"split": "benchmark", "lowest": 0.2},
    ],
    ids=str,
)
def test_the_map_knows_every_filter_of_the_grid(mapped, wanted) -> None:  # type: ignore[no-untyped-def]
    catalog, _ = mapped
    asked = ImageFilter(**wanted)
    assert len(points_of_map(catalog, asked)) == count_of_images(catalog, asked)


@pytest.mark.parametrize(
    "corners",
    [((0, 0), (40_000, 0), (40_000, 40_000), (0, 40_000)), ((0, 0), (SIDE, 30_000), (100, SIDE)), STAR],
    ids=["square", "triangle", "star that crosses itself"],
)
def test_exactly_the_places_inside_are_found(mapped, corners) -> None:  # type: ignore[no-untyped-def]
    catalog, places = mapped
    found = set(catalog.connection.scalars(inside(Lasso("m1", corners))))
    expected = {id for id, place in places.items() if winds_oddly(place, corners)}
    assert found == expected and 0 < len(found) < len(places)


def test_a_lasso_filters_every_reader_of_images(mapped) -> None:  # type: ignore[no-untyped-def]
    catalog, places = mapped
    lasso = parse_lasso(SQUARE)
    active = {image.id for image in catalog.images.find(status="active")}
    expected = {id for id, (x, y) in places.items() if x < 40_000 and y < 40_000} & active
    wanted = ImageFilter(lasso=lasso, order="newest")
    assert {card.id for card in page_of_images(catalog, wanted, limit=200).cards} == expected
    assert count_of_images(catalog, wanted) == len(expected) == len(points_of_map(catalog, wanted))
    assert count_of_selection(catalog, conditions_of(catalog, wanted)) == len(expected)
    scored = page_of_images(catalog, ImageFilter(lasso=lasso), limit=200).cards
    assert {card.id for card in scored} <= expected and scored
    one = next(iter(expected))
    assert [found["id"] for found in images_at(catalog, *places[one], limit=5)] == [one]


def test_a_lasso_on_an_earlier_map_is_refused(mapped) -> None:  # type: ignore[no-untyped-def]
    catalog, places = mapped
    catalog.map_places.replace("m2", list(places), np.zeros((len(places), 2), np.uint16))
    for read in (page_of_images, count_of_images, points_of_map, conditions_of):
        with pytest.raises(NotFound, match="draw it again"):
            read(catalog, ImageFilter(lasso=parse_lasso(SQUARE)))
    assert catalog.map_places.current() == "m2"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "m1",
            "m1:",
            "m1:1,2,3,4",
            "m1:1,2,3,4,5",
            "m1:1,2,3,4,5,99999",
            "m1:1,2,3,4,5,-6",
            "M1:1,1,2,2,3,1",
        ),
        *("m1:1,2,3,4,5,6,", "m1:1.5,2,3,4,5,6", "m1:0,0,1,1,1,0 ", "x" * 33 + ":0,0,1,1,1,0"),
        "m1:" + ",".join(["1,2"] * (MAX_CORNERS + 1)),
    ],
)
def test_what_is_no_lasso_is_refused(text: str) -> None:
    with pytest.raises(InputRefused, match="lasso"):
        parse_lasso(text)


def test_the_longest_lasso_fits_and_a_flat_one_holds_nothing(mapped) -> None:  # type: ignore[no-untyped-def]
    catalog, _ = mapped
    around = ",".join(
        f"{SIDE if k % 2 else 10_000},{SIDE * k // MAX_CORNERS:05d}" for k in range(MAX_CORNERS)
    )
    text = f"{'m' * 32}:{around}"
    assert len(text) <= MAX_TEXT and len(parse_lasso(text).corners) == MAX_CORNERS
    assert catalog.connection.execute(inside(parse_lasso(f"m1:{around}"))).all() is not None
    assert not catalog.connection.execute(inside(parse_lasso("m1:0,5,9,5,60000,5"))).all()


MANY = """
INSERT INTO images (id, sha256, height, width, media_type, prompt, settings, source, origin, licence, split,
    "group", purpose, status, created)
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 100000)
SELECT printf('many-%06d', n), 's', 1, 1, 'image/png', '', '{}', 'generated', '', '', 'train', '', '',
    'active', n
FROM numbers
"""
PLACED = """
INSERT INTO map_places (image_id, map_id, x, y)
SELECT id, 'm2', (created * 7919) % 65535, (created * 104729) % 65535 FROM images WHERE id LIKE 'many-%'
"""


def test_a_lasso_around_a_hundred_thousand_points(mapped) -> None:  # type: ignore[no-untyped-def]
    catalog, _ = mapped
    if catalog.connection.dialect.name != "sqlite":
        pytest.skip("the rows are made by SQLite's own SQL")
    for statement in ("DELETE FROM map_places", MANY, PLACED):
        catalog.connection.exec_driver_sql(statement)
    around = ImageFilter(lasso=parse_lasso(f"m2:0,0,{SIDE},0,{SIDE},{SIDE},0,{SIDE}"), order="newest")
    first = page_of_images(catalog, around)
    second = page_of_images(catalog, around, after=first.after)
    newest = [f"many-{number:06d}" for number in range(100_000, 100_000 - 2 * PAGE, -1)]
    assert [card.id for card in (*first.cards, *second.cards)] == newest
    assert count_of_images(catalog, around) == COUNT_LIMIT, "counted no further"
    assert facet_counts(catalog, around).keys() == {"state", "class", "tag"}, "no value of so many is counted"
    assert catalog.tags.add(conditions_of(catalog, around), ["all"]) == 100_000
