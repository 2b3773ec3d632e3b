"""Records of detectors, generators and treatments."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import now

FILES = "files"
"""Key of a generator's settings: the checkpoint that holds its files, for machines without its folder."""
THRESHOLD = 0.5
"""Confidence from which a pixel or image is flagged: of a true mask, of an oracle, of a detector without an
operating point, and in the paper's artifact frequency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """The confidences in [0, 1] from which a detector flags, chosen on validation images."""

    flagged: float = THRESHOLD
    """Confidence from which the highest pixel of an image flags it."""
    component: float = THRESHOLD
    """Confidence from which pixels belong to a component; at most `flagged`."""
    rule: str = "fixed"
    """The rule that chose it; "fixed" where none could, then `reason` says why."""
    reason: str = ""
    flawed: int = 0
    """Flawed images that it was chosen on."""
    clean: int = 0
    """Images without a flaw that it was chosen on."""
    interval: tuple[float, float] | None = None
    """95 % bootstrap interval of `flagged`, over images: how far it depends on the choice of images."""


CLINIC = "clinic"
"""The domain of the embedded clinic: its drawings, and what its generator makes of their captions."""
CLINIC_GENERATOR, CLINIC_ORIGIN = "tiny-flux", "clinic world"
"""Id of the clinic's generator, and how the origin of its drawings begins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorVersion:
    """A trained detector: its checkpoint, training and metrics."""

    id: str
    name: str
    checkpoint: str
    role: Literal["candidate", "champion", "teacher", "retired"] = "candidate"
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    operating_point: OperatingPoint | None = None
    """None until one was chosen; `THRESHOLD` holds meanwhile."""
    parent: str | None = None
    snapshot_id: str | None = None
    round_id: str | None = None
    licence: str = ""
    domain: str = ""
    """The kind of images that it was made for: "clinic" for the embedded clinic's; "" for any others."""
    created: float = field(default_factory=now)
    removed: float | None = None
    """When it was taken off the lists; None while it is offered. What refers to it stays."""


def threshold_of(version: DetectorVersion) -> float:
    """The confidence in [0, 1] from which this detector flags an image."""
    return THRESHOLD if version.operating_point is None else version.operating_point.flagged


def component_threshold_of(version: DetectorVersion) -> float:
    """The confidence in [0, 1] from which a pixel of this detector's map belongs to a component."""
    return THRESHOLD if version.operating_point is None else version.operating_point.component


def describe_point(version: DetectorVersion) -> dict[str, Any]:
    """A detector's thresholds for people: `flagged`, `component`, and `text`, which says where they come
    from."""
    return {
        "flagged": threshold_of(version),
        "component": component_threshold_of(version),
        "text": _point_in_words(version.operating_point),
    }


def _point_in_words(point: OperatingPoint | None) -> str:
    if point is None:
        return (
            f"flags from {THRESHOLD:g}: no operating point has been chosen yet, which takes labelled "
            "validation images"
        )
    if point.rule == "fixed":
        return f"flags from {point.flagged:g}: no operating point could be chosen, because {point.reason}"
    spread = f" (95 % interval {point.interval[0]:.2g} to {point.interval[1]:.2g})" if point.interval else ""
    return (
        f"flags images from {point.flagged:.3g}{spread} and components from {point.component:.3g}: "
        f"{point.rule} on {point.flawed} flawed validation images and {point.clean} without a flaw"
    )


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
