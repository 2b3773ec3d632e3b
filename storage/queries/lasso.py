"""A lasso on the map of images: a polygon, and the images inside it."""

import re
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, case, select

from dataengine.errors import InputRefused, NotFound
from storage import tables
from storage.catalog import Catalog

SIDE = 65_535
"""Places are whole numbers from 0 to this."""
MAX_CORNERS = 100
MAX_TEXT = 1_300
"""Length of a lasso as text: an id, and 100 corners of two numbers of up to five digits."""
FORM = re.compile(r"(?P<map>[0-9a-z]{1,32}):(?P<corners>\d{1,5}(,\d{1,5})*)")


@dataclass(frozen=True, slots=True)
class Lasso:
    """A closed polygon of 3 to 100 corners (x, y) in [0, 65535] on one map."""

    map_id: str
    corners: tuple[tuple[int, int], ...]


def parse_lasso(text: str) -> Lasso:
    """Read `MAP:x,y,x,y,…`. Raises `InputRefused` for anything else."""
    match = FORM.fullmatch(text)
    numbers = [int(number) for number in match["corners"].split(",")] if match else []
    corners = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    if match is None or len(numbers) % 2 or not 3 <= len(corners) <= MAX_CORNERS or max(numbers) > SIDE:
        raise InputRefused(
            f"a lasso is a map's id, a colon, and the x,y of 3 to {MAX_CORNERS} corners from 0 to {SIDE}; "
            "draw it on the map"
        )
    return Lasso(match["map"], corners)


def refuse_outdated(catalog: Catalog, lasso: Lasso | None) -> None:
    """Raise `NotFound` for a lasso on a map that has been replaced, where other images lie now."""
    if lasso is not None and catalog.map_places.current() != lasso.map_id:
        raise NotFound("the map was updated after this lasso was drawn; draw it again on the map")


def inside(lasso: Lasso) -> Select[Any]:
    """Ids of the images inside, by the even-odd rule: a ray from the place crosses the outline an odd number
    of times."""
    places = tables.map_places.c
    xs, ys = zip(*lasso.corners, strict=True)
    within = and_(
        places.map_id == lasso.map_id,
        places.x.between(min(xs), max(xs)),
        places.y.between(min(ys), max(ys)),
    )
    edges = zip(lasso.corners, (*lasso.corners[1:], lasso.corners[0]), strict=True)
    crossed = [_crossed(*edge) for edge in edges if edge[0][1] != edge[1][1]]
    odd = reduce(add, crossed) % 2 == 1 if crossed else places.x < 0
    return select(places.image_id).where(within, odd)


def _crossed(start: tuple[int, int], end: tuple[int, int]) -> ColumnElement[int]:
    """1 where the edge lies to the right of a place and spans its height, else 0."""
    places = tables.map_places.c
    (x0, low), (x1, high) = sorted((start, end), key=lambda corner: corner[1])
    slope = (x1 - x0) / (high - low)
    left_of_it = places.x < x0 + (places.y - low) * slope
    return case((and_(places.y >= low, places.y < high, left_of_it), 1), else_=0)
