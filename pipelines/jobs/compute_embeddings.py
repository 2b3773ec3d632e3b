"""Features of each image's appearance, for "More like this" and the map of the Curate desk.

Input: active images without a vector. Output: one int8 vector of length 192 each. Cost: a thumbnail read
and a few milliseconds per image, no model and no GPU; images that have a vector are skipped.
"""

from contextlib import suppress

import numpy as np

from dataengine.curation.appearance import APPEARANCE, LENGTH, appearance
from dataengine.errors import Corrupt, ImageRefused, NotFound
from dataengine.images import decode
from dataengine.records import Image
from pipelines.runtime.context import Context, Result
from pipelines.runtime.images import read_pixels
from storage.workspace import Workspace

BATCH = 200
NAMED = 20
"""Unreadable images that the result names at most."""


def compute_features(context: Context) -> Result:
    """Compute and store missing vectors: zeros for an image that cannot be read, which the result names."""
    with context.workspace.catalog(read_only=True) as catalog:
        missing = catalog.features.missing(APPEARANCE)
    unreadable: list[str] = []
    for start in range(0, len(missing), BATCH):
        context.report(start, len(missing), "indexing images by colours and edges")
        with context.workspace.catalog(read_only=True) as catalog:
            images = catalog.images.get_many(missing[start : start + BATCH])
        vectors = {}
        for image in images:
            try:
                vectors[image.id] = appearance(_small_pixels(context.workspace, image))
            except (NotFound, Corrupt, ImageRefused) as error:
                unreadable.append(f"{image.id}: {error}")
                vectors[image.id] = np.zeros(LENGTH, np.int8)
        with context.workspace.catalog() as catalog:
            catalog.features.add_many(APPEARANCE, vectors)
            catalog.commit()
    result: Result = {"features": APPEARANCE, "images": len(missing) - len(unreadable)}
    if unreadable:
        result |= {"unreadable": len(unreadable), "unreadable_images": unreadable[:NAMED]}
    return result


def _small_pixels(workspace: Workspace, image: Image) -> np.ndarray:
    """The thumbnail's pixels, or the image's where it has none or has lost it."""
    if image.thumbnail is not None:
        with suppress(NotFound, Corrupt, ImageRefused):
            return decode(workspace.blobs.get(image.thumbnail))
    return read_pixels(workspace, image)
