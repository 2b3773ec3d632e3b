"""Records of annotation: drafts, idempotency keys, comments, gold images and their scores."""

from dataclasses import dataclass, field

from dataengine.records.identity import now
from dataengine.records.labels import Region


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A person's unfinished label map (bytes of `masks.pack_label_map`) and the seconds spent on it so
    far."""

    image_id: str
    author: str
    label_map: bytes
    regions: tuple[Region, ...] = ()
    seconds: float = 0.0
    saved: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class IdempotencyKey:
    """A used idempotency key: the digest of the answer sent under it, and the revision it was stored as."""

    author: str
    key: str
    digest: str
    image_id: str
    revision: int
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comment:
    """A person's comment on an image."""

    id: str
    image_id: str
    author: str
    text: str
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldImage:
    """An image with a known right answer: a label map (blob) or "clean"."""

    image_id: str
    label_map: str | None
    clean: bool
    chosen_by: str
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldScore:
    """A person's score on a gold image: IoU of the marked pixels, share of the overlap with the right
    class."""

    image_id: str
    author: str
    revision: int
    iou: float
    right_class: float
    created: float = field(default_factory=now)
