"""One labelling task with its pixels, for editors that run in this process's memory.

The page at /annotate fetches the same parts by URL; leases, suggestions and drafts follow the same rules.
"""

from dataclasses import dataclass

import numpy as np

from dataengine.masks import dequantise, unpack_label_map
from dataengine.records import THRESHOLD, Image, Lease, component_threshold_of, now
from pipelines.services.annotation import save_draft, suggesting_detector, take_lease
from storage.queries.annotation import annotator_day
from storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class LabellingTask:
    """A leased image, what a person may accept on it, and what they drew on it before."""

    lease: str
    image: Image
    data: bytes
    """The image file."""
    confidence: np.ndarray | None
    """The suggesting detector's map, float32 HW in [0, 1]; None where there is none."""
    threshold: float
    """Confidence from which the first suggestions are shown."""
    detector: str
    """Its name."""
    classes: tuple[str, ...]
    revision: int
    """Of the person's newest answer to it, 0 for none."""
    drawn: np.ndarray
    """The saved draft, uint8 HW; zero where there is none."""


def take_task(
    workspace: Workspace,
    annotator: str,
    lease_seconds: float,
    besides: frozenset[str] = frozenset(),
    prefer: str | None = None,
) -> LabellingTask | None:
    """The image that this person holds, else the next one, leased; None when nothing waits.

    As `annotation.take_lease`, with the pixels. Raises `NotFound` and `Corrupt` where these are lost.
    """
    with workspace.catalog() as catalog:
        lease = take_lease(catalog, annotator, lease_seconds, set(besides), prefer)
        catalog.commit()
    return None if lease is None else _task(workspace, lease, annotator)


def _task(workspace: Workspace, lease: Lease, annotator: str) -> LabellingTask:
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(lease.image_id)
        detector = suggesting_detector(catalog, image.id, catalog.queue.sent_by(image.id, lease.round_id))
        prediction = catalog.predictions.get(image.id, detector.id) if detector else None
        mine, draft = catalog.labels.latest(image.id, annotator), catalog.drafts.get(image.id, annotator)
        classes = catalog.classes.names()
    shape, ref = (image.height, image.width), prediction.map_ref if prediction else None
    return LabellingTask(
        lease=lease.id,
        image=image,
        data=workspace.blobs.get(image.sha256),
        confidence=dequantise(workspace.maps.get(ref)) if ref else None,
        threshold=component_threshold_of(detector) if detector else THRESHOLD,
        detector=detector.name if detector else "",
        classes=tuple(classes),
        revision=mine.revision if mine else 0,
        drawn=unpack_label_map(draft.label_map, *shape) if draft else np.zeros(shape, np.uint8),
    )


def keep_drawing(workspace: Workspace, lease_id: str, packed: str, seconds: float, annotator: str) -> bool:
    """Keep the unfinished drawing on a leased image as this person's draft; False if the lease has ended, as
    when the answer overtook the drawing. `packed` is as in `Annotation.label_map`. Raises `MaskRefused`."""
    with workspace.catalog(read_only=True) as catalog:
        lease = catalog.queue.lease(lease_id)
    if lease is None or lease.annotator != annotator:
        return False
    save_draft(workspace, lease.image_id, packed, seconds, annotator)
    return True


def count_waiting(workspace: Workspace, annotator: str) -> int:
    """How many images wait for this person."""

    with workspace.catalog(read_only=True) as catalog:
        return annotator_day(catalog, annotator, now(), now()).remaining
