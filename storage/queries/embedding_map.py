"""The map of images: places, and what colours them."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, exists, select

from storage import tables
from storage.catalog import Catalog
from storage.queries.images import ImageFilter, champion_id, matching, within_bounds
from storage.queries.lasso import refuse_outdated

MOST_POINTS = 200_000
"""Images that a map shows at most."""


@dataclass(frozen=True, slots=True)
class MapPoint:
    """One image of the map; `max` is None where the detector has not looked at it."""

    x: int
    y: int
    category: str | None
    max: float | None
    labelled: bool
    waiting: bool


def points_of_map(catalog: Catalog, image_filter: ImageFilter) -> list[MapPoint]:
    """The images of the newest map that match the filter, at most `MOST_POINTS`."""
    refuse_outdated(catalog, image_filter.lasso)
    places, images, predictions = tables.map_places, tables.images, tables.predictions
    detector = image_filter.detector_id or champion_id(catalog)
    same = and_(predictions.c.image_id == images.c.id, predictions.c.detector_id == detector)
    conditions = [places.c.map_id == catalog.map_places.current(), *matching(image_filter)]
    if image_filter.bounded:
        conditions.append(within_bounds(image_filter, detector))
    statement = (
        select(
            places.c.x,
            places.c.y,
            images.c.category,
            predictions.c.max,
            exists().where(tables.labels.c.image_id == images.c.id),
            exists().where(
                tables.queue_items.c.image_id == images.c.id, tables.queue_items.c.done.is_(False)
            ),
        )
        .join(images, images.c.id == places.c.image_id)
        .outerjoin(predictions, same)
        .where(*conditions)
        .limit(MOST_POINTS)
    )
    return [MapPoint(*row) for row in catalog.connection.execute(statement).tuples()]


def images_at(catalog: Catalog, x: int, y: int, limit: int) -> list[dict[str, Any]]:
    """Id, prompt and category of at most `limit` images at exactly this place of the newest map."""
    places, images = tables.map_places, tables.images
    statement = (
        select(images.c.id, images.c.prompt, images.c.category)
        .join(images, images.c.id == places.c.image_id)
        .where(places.c.map_id == catalog.map_places.current(), places.c.x == x, places.c.y == y)
        .where(images.c.status == "active")
        .order_by(images.c.id)
        .limit(limit)
    )
    return [dict(row) for row in catalog.connection.execute(statement).mappings()]
