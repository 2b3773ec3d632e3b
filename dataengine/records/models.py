"""Records of detectors, generators and treatments."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import now

FILES = "files"
"""Key of a generator's settings: the checkpoint that holds its files, for machines without its folder."""
THRESHOLD = 0.5
"""Confidence from which a pixel or image is flagged, for a map of an unknown detector."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorVersion:
    """A trained detector: its checkpoint, training and metrics."""

    id: str
    name: str
    checkpoint: str
    role: Literal["candidate", "champion", "teacher", "retired"] = "candidate"
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    snapshot_id: str | None = None
    round_id: str | None = None
    licence: str = ""
    created: float = field(default_factory=now)
    removed: float | None = None
    """When it was taken off the lists; None while it is offered. What refers to it stays."""


def threshold_of(version: DetectorVersion) -> float:
    """The confidence in [0, 1] from which this detector flags a pixel or an image."""
    return THRESHOLD


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorVersion:
    """A diffusion pipeline: a folder or hub id, and the LoRA checkpoint of its treatment, if any."""

    id: str
    name: str
    location: str
    lora: str | None = None
    parent: str | None = None
    treatment_id: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    created: float = field(default_factory=now)
    removed: float | None = None
    """When it was taken off the lists; None while it is offered. What refers to it stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Treatment:
    """One LoRA fine-tuning run against a frozen detector."""

    id: str
    generator_id: str
    detector_id: str
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    treated_id: str | None = None
    round_id: str | None = None
    created: float = field(default_factory=now)
