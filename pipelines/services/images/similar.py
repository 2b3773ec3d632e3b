"""Images by what they look like: those alike one image, their map, and near-duplicates."""

import base64
from typing import Any

import numpy as np

from dataengine.curation.appearance import APPEARANCE, centred
from dataengine.records import Job
from pipelines.selections.config import ImageQuery
from pipelines.services.jobs import request_job
from pipelines.services.queue import OPEN
from storage.catalog import Catalog
from storage.queries.duplicates import DuplicateGroup, count_of_groups, duplicate_groups
from storage.queries.embedding_map import MOST_POINTS, MapPoint, images_at, points_of_map
from storage.queries.images import cards_of, champion_id
from storage.workspace import Workspace

MOST_COMPARED = 100_000
"""Images that "More like this" compares at most; 77 MB."""
UNKNOWN = 255
"""The byte of a category or confidence that an image does not have."""
MOST_CATEGORIES = 254
MOST_AT_ONE_PLACE = 12
STATUS = ("not labelled", "waiting for annotators", "labelled")


def request_once(workspace: Workspace, kind: str, actor: str = "") -> Job:
    """Queue the similarity index ("features") or the map ("map"), or return the open job that does it."""
    job = _newest_job(workspace, kind)
    return job if job is not None and job.state in OPEN else request_job(workspace, kind, {}, actor)


def similar_images(workspace: Workspace, image_id: str, limit: int) -> dict[str, Any]:
    """The images most alike one: cards with rank and similarity, 1 for equal images and about 0 for two at
    random. While the image has no features: `indexed` is false, with the number of images that lack them, the
    job that is open or failed, and whether the image's file could not be read. Raises `NotFound` for an
    unknown image."""
    with workspace.catalog(read_only=True) as catalog:
        catalog.images.get(image_id)
        mine = catalog.features.get(APPEARANCE, image_id)
        missing = len(catalog.features.missing(APPEARANCE))
        job = shown_job(_newest_job(workspace, "features")) if missing else None
        if mine is None or not mine.any():
            return {"indexed": False, "unreadable": mine is not None, "missing": missing, "job": job}
        ids, vectors = catalog.features.of(APPEARANCE, MOST_COMPARED)
        rows = centred(np.concatenate([vectors, mine[None]]))
        similarity = rows[:-1] @ rows[-1]
        order = np.argsort(-similarity, kind="stable")[: limit + 1]
        near = {ids[int(at)]: float(similarity[at]) for at in order if ids[int(at)] != image_id}
        cards = cards_of(catalog, list(near)[:limit], champion_id(catalog))
    hits = [
        {"card": card, "rank": rank, "similarity": near[card.id]} for rank, card in enumerate(cards, start=1)
    ]
    return {"indexed": True, "missing": missing, "job": job, "compared": len(ids), "hits": hits}


def map_state(workspace: Workspace) -> dict[str, Any]:
    """The newest map's id, how many images it does not show yet, and the job that draws it anew
    if it is open or failed."""
    with workspace.catalog(read_only=True) as catalog:
        current = catalog.map_places.current()
        new = catalog.map_places.missing(current, APPEARANCE) + len(catalog.features.missing(APPEARANCE))
    return {"map": current, "new": new, "job": shown_job(_newest_job(workspace, "map"))}


def map_points(workspace: Workspace, query: ImageQuery) -> dict[str, Any]:
    """The images of the newest map that match the query, as columns in base64: `x` and `y` are little-endian
    uint16, `category` (an index), `max` (0 to 254) and `status` bytes; 255 where there is none.

    Raises `NotFound` for a lasso on an earlier map.
    """
    with workspace.catalog(read_only=True) as catalog:
        current = catalog.map_places.current()
        points = points_of_map(catalog, query.filter())
    names = sorted({point.category for point in points if point.category is not None})
    index = {name: min(at, MOST_CATEGORIES) for at, name in enumerate(names)}
    columns = {
        "x": np.array([point.x for point in points], "<u2"),
        "y": np.array([point.y for point in points], "<u2"),
        "category": np.array([index.get(point.category or "", UNKNOWN) for point in points], np.uint8),
        "max": np.array([_level(point.max) for point in points], np.uint8),
        "status": np.array([_status(point) for point in points], np.uint8),
    }
    return {
        "map": current,
        "count": len(points),
        "all": len(points) < MOST_POINTS,
        "categories": names,
        "statuses": list(STATUS),
        **{name: base64.b64encode(values.tobytes()).decode() for name, values in columns.items()},
    }


def images_at_place(workspace: Workspace, x: int, y: int) -> list[dict[str, Any]]:
    """The images at a place of the newest map, at most twelve."""
    with workspace.catalog(read_only=True) as catalog:
        return images_at(catalog, x, y, MOST_AT_ONE_PLACE)


def near_duplicates(workspace: Workspace, after: str | None, limit: int) -> dict[str, Any]:
    """Groups of images that the import found to look alike, the largest first, from the one after the cursor,
    with the number of groups and of images in them."""
    with workspace.catalog(read_only=True) as catalog:
        groups, last = duplicate_groups(catalog, after, limit)
        counts = count_of_groups(catalog) if after is None else {}
        return {"groups": [_shown_group(catalog, group) for group in groups], "after": last, **counts}


def shown_job(job: Job | None) -> dict[str, Any] | None:
    """A job as a page that waits for it shows it."""
    if job is None:
        return None
    shown = {"id": job.id, "state": job.state, "progress": job.progress, "message": job.message}
    return shown | {"error": job.error}


def _newest_job(workspace: Workspace, kind: str) -> Job | None:
    """The newest job of the kind if it is open, or failed; else None."""
    with workspace.catalog(read_only=True) as catalog:
        newest = next(iter(catalog.jobs.list(kind=kind, limit=1)), None)
    return newest if newest is not None and newest.state in (*OPEN, "failed") else None


def _level(confidence: float | None) -> int:
    return UNKNOWN if confidence is None else round(254 * min(max(confidence, 0.0), 1.0))


def _status(point: MapPoint) -> int:
    return 1 if point.waiting else 2 if point.labelled else 0


def _shown_group(catalog: Catalog, group: DuplicateGroup) -> dict[str, Any]:
    cards = cards_of(catalog, group.ids, champion_id(catalog))
    return {"group": group.name, "count": group.count, "cards": cards}
