"""Images, what is found on them, and what people answer."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import Split, now

Source = Literal["generated", "real", "imported", "drawn"]
LabelSource = Literal["person", "simulated", "import"]
SampleKind = Literal["true", "pseudo", "real", "previous"]
DEFAULT_CLASSES = ("shape distortion", "unreasonable content", "watermark")


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One picture, generated or real, at its native size. `sha256` names its encoded bytes."""

    id: str
    sha256: str
    height: int
    width: int
    media_type: str = "image/png"
    prompt: str = ""
    category: str | None = None
    generator_id: str | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    source: Source = "generated"
    origin: str = ""
    licence: str = ""
    split: Split = "train"
    group: str = ""
    round_id: str | None = None
    purpose: str = ""
    thumbnail: str | None = None
    status: Literal["active", "refused"] = "active"
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A detector's answer for an image: maximum, mean, uncertainty (all in [0, 1]) and where its map lies."""

    image_id: str
    detector_id: str
    max: float
    mean: float
    uncertainty: float
    map_ref: str | None = None
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class PseudoLabel:
    """A detector's map taken as a label."""

    image_id: str
    detector_id: str
    round_id: str
    map_ref: str
    max: float
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryAnswer:
    """What a VQA model says an image shows."""

    image_id: str
    model: str
    category: str
    confidence: float


@dataclass(frozen=True, kw_only=True, slots=True)
class HardCategory:
    """A category judged in one round: the statistic, its limit, and the verdict (DiffDoctor)."""

    round_id: str
    category: str
    images: int
    statistic: float
    limit: float
    hard: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A prompt of a round, numbered within its purpose ("survey", "hard", "treat", "evaluate", …)."""

    round_id: str
    purpose: str
    index: int
    text: str
    category: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A person's answer for one image: a label map (blob of `masks.pack_label_map`) or "clean".

    `revision` counts that author's answers for that image from 1; the highest one counts.
    """

    image_id: str
    author: str
    height: int
    width: int
    label_map: str | None = None
    clean: bool = False
    revision: int = 1
    source: LabelSource = "person"
    lead_seconds: float = 0.0
    round_id: str | None = None
    detector_id: str | None = None
    note: str = ""
    created: float = field(default_factory=now)


AND = " + "
"""Between the names of those whose labels were merged; no account's name holds it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotItem:
    """One training example: which pixels, which target, how it is weighted."""

    image_id: str
    image_sha256: str
    kind: SampleKind
    target: str | None
    category: str | None = None
    max_confidence: float = 0.0
    weight: float = 1.0
    split: Split = "train"
    author: str | None = None
    """Who drew the target; of a merged one all of them, between `AND`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """An immutable training set; `id` is the hash of its sorted rows."""

    id: str
    manifest: str
    rows: int
    composition: dict[str, int]
    round_id: str | None = None
    parent: str | None = None
    created: float = field(default_factory=now)
