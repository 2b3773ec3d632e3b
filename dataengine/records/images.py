"""Records of images, predictions, pseudo-labels, categories and prompts."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dataengine.records.identity import Split, now

Source = Literal["generated", "real", "imported", "drawn", "injected", "repaired"]
INJECTED: Final = "injected"
"""Source, author and kind of sample of clean images into which an artifact was injected
(`dataengine.injection`). They may be trained on and are left out of everything else."""
REPAIRED: Final = "repaired"
"""Source of images that a repair made of others. They are no samples of a generator, so statistics, mining
and pseudo-labels leave them out."""
COLLECTED: tuple[Source, ...] = ("generated", "real", "imported", "drawn")
"""All other sources: images that were collected, and count in every figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image, generated or real, at its native size. `sha256` is the hash of its encoded bytes."""

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
    status: Literal["active", "refused", "proposed"] = "active"
    """A proposed image is a repair that nobody has accepted or rejected yet."""
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A detector's prediction for an image: maximum, mean, uncertainty (all in [0, 1]) and its map's
    reference."""

    image_id: str
    detector_id: str
    max: float
    mean: float
    uncertainty: float
    map_ref: str | None = None
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class PseudoLabel:
    """A detector's map used as a label."""

    image_id: str
    detector_id: str
    round_id: str
    map_ref: str
    max: float
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryAnswer:
    """A VQA model's category for an image."""

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


COMPARED = "compare"
"""Purpose of images generated for viewing, with and without a treatment."""

SURVEY, HARD, TREAT, JUDGE = "survey", "hard", "treat", "judge"
"""Purposes of prompts and images. Treatment has prompts but keeps no images."""

IMPORTED = ("generated", "imported")
"""Sources of external images, which have no purpose."""
