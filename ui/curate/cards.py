"""An image as the grid shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

from storage.queries.images import ImageCard


def card(found: ImageCard, tags: Mapping[str, Sequence[str]], **more: Any) -> dict[str, Any]:
    """A card as the grid shows it; pixels and maps are fetched from /api/images."""
    return {
        "id": found.id,
        "prompt": found.prompt,
        "category": found.category,
        "source": found.source,
        "split": found.split,
        "generator": found.generator_id,
        "height": found.height,
        "width": found.width,
        "round": found.round_id,
        "max": found.max,
        "uncertainty": found.uncertainty,
        "map": found.map_ref is not None,
        "detector": found.detector_id,
        "labelled": found.labelled,
        "tags": tags.get(found.id, ()),
        **more,
    }
