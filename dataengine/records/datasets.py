"""Records of snapshots and benchmarks."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import Split, now
from dataengine.records.models import THRESHOLD


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A numbered set of images with their true labels; immutable once frozen. `digest` covers its rows."""

    id: str
    version: int
    name: str
    state: Literal["draft", "frozen"] = "draft"
    settings: dict[str, Any] = field(default_factory=dict)
    digest: str | None = None
    created_by: str = ""
    created: float = field(default_factory=now)
    frozen_by: str | None = None
    frozen: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkItem:
    """One image of a benchmark; once `settled`, `target` is its true label (blob of a label map, None:
    clean)."""

    image_id: str
    stratum: str
    kind: Literal["drawn", "real"] = "drawn"
    annotations_per_image: int = 1
    settled: bool = False
    target: str | None = None
    settled_by: str = ""
    how: str = ""


def label_by(author: str) -> str:
    """How a true label was chosen (`BenchmarkItem.how`) that is one person's."""
    return f"{author}'s label"


SampleKind = Literal["true", "pseudo", "real", "previous", "injected"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SnapshotItem:
    """One training example: image, target and weight."""

    image_id: str
    image_sha256: str
    kind: SampleKind
    target: str | None
    category: str | None = None
    max_confidence: float = 0.0
    weight: float = 1.0
    split: Split = "train"
    author: str | None = None
    """Author of the target; for a merged one all authors, joined by `AND`."""

    @property
    def positive(self) -> bool:
        """Whether it is flawed: by its highest confidence for a pseudo-label, else by its target."""
        return self.target is not None and (self.kind != "pseudo" or self.max_confidence >= THRESHOLD)


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
