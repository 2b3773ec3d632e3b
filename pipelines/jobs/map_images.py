"""The map of all images: each has a place, so that images which look alike lie together.

Input: active images. Output: a map's id, and a place for every image with features; missing features are
computed first. A map that already shows every image is kept.
"""

import secrets
from typing import Any

from dataengine.curation.appearance import APPEARANCE, centred
from dataengine.curation.embedding_map import project
from dataengine.errors import ConfigRefused
from pipelines.jobs.compute_embeddings import compute_features
from pipelines.runtime.context import Context, Result

MOST_IMAGES = 200_000
"""Images of a map at most; it takes about a minute for 10,000 of them."""


def map_job(context: Context, args: dict[str, Any]) -> Result:
    """Draw the map anew if images are new. Raises `ConfigRefused` without images."""
    indexed = compute_features(context)
    with context.workspace.catalog(read_only=True) as catalog:
        current = catalog.map_places.current()
        ids, vectors = catalog.features.of(APPEARANCE, MOST_IMAGES)
        if current is not None and not catalog.map_places.missing(current, APPEARANCE):
            return {"map": current, "images": 0, **_unreadable(indexed)}
    if not ids:
        raise ConfigRefused("there are no images to map; import or generate some first")
    message = f"arranging {len(ids):,} images by likeness"
    context.report(0, 1, message)
    places = project(centred(vectors), report=lambda done, total: context.report(done, total, message))
    map_id = secrets.token_hex(4)
    with context.workspace.catalog() as catalog:
        catalog.map_places.replace(map_id, ids, places)
        catalog.commit()
    return {"map": map_id, "images": len(ids), **_unreadable(indexed)}


def _unreadable(indexed: Result) -> Result:
    return {name: indexed[name] for name in ("unreadable", "unreadable_images") if name in indexed}
