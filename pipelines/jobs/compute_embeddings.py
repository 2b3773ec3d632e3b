"""Features of the champion's encoder for each image, used by "more like this" at the Curate desk.

Input: active images without a vector of the champion. Output: one int8 vector of length 96 each. Cost: one
encoder pass per image; images that have a vector are skipped.
"""

import numpy as np

from dataengine.errors import ConfigRefused
from pipelines.runtime.context import Context, Result
from pipelines.runtime.images import read_pixels
from pipelines.runtime.open_detector import champion_version, open_detector
from storage.repositories.images import FEATURE_LENGTH

BATCH = 32
SEED = 96


def compute_features(context: Context) -> Result:
    """Compute and store missing vectors. Raises `ConfigRefused` without a champion that has an encoder."""
    version = champion_version(context)
    with context.workspace.catalog(read_only=True) as catalog:
        missing = catalog.features.missing(version.id)
        images = catalog.images.get_many(missing)
    if not images:
        return {"detector": version.id, "images": 0}
    detector = open_detector(context, version.id)
    for start in range(0, len(images), BATCH):
        context.report(start, len(images), f"computing features with {version.name}")
        part = images[start : start + BATCH]
        pixels = [read_pixels(context.workspace, image) for image in part]
        vectors = compact(context.models.encoder_features(detector, pixels, BATCH))
        with context.workspace.catalog() as catalog:
            catalog.features.add_many(
                version.id, dict(zip((image.id for image in part), vectors, strict=True))
            )
            catalog.commit()
    return {"detector": version.id, "images": len(images)}


def compact(features: np.ndarray) -> np.ndarray:
    """Project float N×D to int8 N×96 by a fixed random matrix, which preserves angles (Johnson &
    Lindenstrauss 1984).

    Raises `ConfigRefused` for other shapes and for non-finite values.
    """
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ConfigRefused(f"encoder features of shape {features.shape} cannot be compared; expected N×D")
    projection = np.random.default_rng(SEED).normal(size=(features.shape[1], FEATURE_LENGTH))
    projected = features @ projection
    highest = np.abs(projected).max(axis=1, keepdims=True)
    return np.rint(127 * projected / np.where(highest > 0, highest, 1)).astype(np.int8)
