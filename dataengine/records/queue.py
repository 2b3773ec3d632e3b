"""Records of the annotation queue: items and leases."""

from dataclasses import dataclass
from typing import Literal

QueueKind = Literal["draw", "triage", "review"]


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueItem:
    """One image to be annotated by `annotations_per_image` people; higher priority first."""

    image_id: str
    round_id: str
    kind: QueueKind = "draw"
    priority: float = 0.0
    annotations_per_image: int = 1
    reason: str = ""
    detector_id: str | None = None
    """The detector whose map sent the image here; None where none did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """A reservation of one image for one person, until it expires."""

    id: str
    image_id: str
    round_id: str
    annotator: str
    kind: QueueKind
    expires: float
