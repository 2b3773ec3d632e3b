"""What injected artifacts look like, before they are made."""

import numpy as np

from dataengine.errors import InputRefused, NotFound
from dataengine.images import encode_png
from dataengine.injection.config import InjectionConfig
from dataengine.injection.inject import Injection, inject, surroundings
from dataengine.records import NO_START, InjectionKind
from pipelines.runtime.images import read_readable
from pipelines.selections.config import ImageQuery
from storage.queries.selections import page_of_selection
from storage.workspace import Workspace

__all__ = ["NO_START", "count_clean", "count_injected", "injection_sample"]

TRIED = 8
"""Clean images among which a sample of a kind is looked for."""
GAP = 4


def count_injected(workspace: Workspace) -> int:
    """Number of images with an injected artifact."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.images.count(source="injected")


def count_clean(workspace: Workspace, query: ImageQuery) -> int:
    """Number of selected images that are known to be clean, of the training split unless the query names
    another."""
    from pipelines.jobs.inject_images import clean_selection

    try:
        return clean_selection(workspace, query)[2]
    except (NotFound, InputRefused):
        return 0


def injection_sample(
    workspace: Workspace, query: ImageQuery, config: InjectionConfig, kind: InjectionKind
) -> bytes | None:
    """A PNG of one artifact of that kind: its surroundings in a selected clean image, before and after. None
    when no image that is tried shows it.

    Raises `NotFound` for an empty selection, `InputRefused` when none is clean.
    """
    from pipelines.jobs.inject_images import clean_selection

    conditions, _, _ = clean_selection(workspace, query)
    with workspace.catalog(read_only=True) as catalog:
        images = page_of_selection(catalog, conditions, limit=TRIED)
    config = config.model_copy(update={"kinds": (kind,)})
    for image in images:
        _, pixels = read_readable(workspace, [image], [])
        try:
            if pixels:
                return encode_png(_before_and_after(pixels[0], inject(pixels[0], image.id, config)))
        except InputRefused:
            continue
    return None


def _before_and_after(pixels: np.ndarray, injection: Injection) -> np.ndarray:
    window = surroundings(injection.label_map > 0)
    before = pixels[window]
    gap = np.full((before.shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([before, gap, injection.pixels[window]], axis=1)
