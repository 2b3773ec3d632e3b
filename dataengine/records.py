"""What the clinic remembers: frozen records that every layer shares.

Ids are strings, times are seconds since the epoch, sizes are (height, width), shares are fractions in [0, 1].
Random choices carry their seed. Nothing here knows how or where it is stored.
"""

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from dataengine.errors import InputRefused

Split = Literal["train", "validation", "benchmark"]
Source = Literal["generated", "real", "imported", "drawn"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
RoundState = Literal["running", "waiting", "done", "failed", "cancelled"]
LabelSource = Literal["person", "simulated", "import"]
SampleKind = Literal["true", "pseudo", "real", "previous"]
QueueKind = Literal["draw", "triage", "review"]

ROLES = ("annotator", "curator", "engineer", "rater", "admin")
DEFAULT_CLASSES = ("shape distortion", "unreasonable content", "watermark")


class Report(Protocol):
    """Called by every long loop at least once a second; raises `Cancelled` when a person asked to stop."""

    def __call__(self, done: int, total: int, message: str = "", **figures: float) -> None: ...


def silent(done: int, total: int, message: str = "", **figures: float) -> None:
    """A `Report` that says nothing."""


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


def digest(*parts: object, length: int = 24) -> str:
    """Deterministic hexadecimal id of the parts, `length` characters."""
    text = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def image_id(sha256: str, generator_id: str | None, prompt: str, seed: int | None) -> str:
    """The id that an image always gets, so that repeating a stage stores nothing twice."""
    return digest("image", sha256, generator_id, prompt, seed)


def prompt_group(prompt: str, seed: int) -> str:
    """The group of what was drawn from one prompt and seed, by whichever generator."""
    return digest("group", prompt, seed)


def split_of(group: str, validation: float = 0.15, benchmark: float = 0.0) -> Split:
    """Decide a split once, from the group alone: same prompt and seed, or near-duplicates, stay together."""
    if not 0 <= validation + benchmark < 1:
        raise InputRefused(f"split shares {validation} + {benchmark} must lie in [0, 1)")
    share = int(hashlib.sha256(group.encode()).hexdigest()[:12], 16) / 16**12
    if share < benchmark:
        return "benchmark"
    return "validation" if share < benchmark + validation else "train"


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
    """A category judged in one round: the statistic, its limit, and the verdict (METHODS 1b)."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueItem:
    """One image waiting for `opinions` people; higher priority first."""

    image_id: str
    round_id: str
    kind: QueueKind = "draw"
    priority: float = 0.0
    opinions: int = 1
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """A promise that nobody else gets this image while it lasts."""

    id: str
    image_id: str
    round_id: str
    annotator: str
    kind: QueueKind
    expires: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """A curator's verdict on a label revision."""

    image_id: str
    author: str
    revision: int
    reviewer: str
    verdict: Literal["accepted", "rejected", "corrected"]
    note: str = ""
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A person's unfinished label map (bytes of `masks.pack_label_map`) and their seconds on it so far."""

    image_id: str
    author: str
    label_map: bytes
    seconds: float = 0.0
    saved: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What was answered under a person's idempotency key: the answer's digest, and the revision it became."""

    author: str
    key: str
    digest: str
    image_id: str
    revision: int
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comment:
    """What somebody wrote about an image."""

    id: str
    image_id: str
    author: str
    text: str
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldImage:
    """An image whose right answer a curator knows: a label map (blob) or "clean"."""

    image_id: str
    label_map: str | None
    clean: bool
    chosen_by: str
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldScore:
    """How a person did on a gold image: IoU of what is marked, share of the overlap with the right class."""

    image_id: str
    author: str
    revision: int
    iou: float
    right_class: float
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A numbered set of images with settled truth; once frozen, neither changes. `digest` covers its rows."""

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
    """One image of a benchmark; `target` is its truth (blob of a label map, None: clean) once `settled`."""

    image_id: str
    stratum: str
    kind: Literal["drawn", "real"] = "drawn"
    opinions: int = 1
    settled: bool = False
    target: str | None = None
    settled_by: str = ""
    how: str = ""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorVersion:
    """A trained detector: its checkpoint, how it was trained, what it measured."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One turn of the loop: the stage that comes next, and the recorded result of those that are done."""

    id: str
    recipe: dict[str, Any]
    stage: str
    state: RoundState = "running"
    results: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A piece of asked-for work; `id` is also the workflow's id."""

    id: str
    kind: str
    args: dict[str, Any] = field(default_factory=dict)
    state: JobState = "queued"
    progress: float = 0.0
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    requested_by: str = ""
    worker: str | None = None
    cancel_requested: bool = False
    created: float = field(default_factory=now)
    started: float | None = None
    heartbeat: float | None = None
    finished: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerBeat:
    """The last sign of life of a worker."""

    id: str
    host: str
    pid: int
    devices: tuple[str, ...] = ()
    job_id: str | None = None
    beat: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """Blind pairwise judging of two generators on the same prompts and seeds."""

    id: str
    name: str
    before_id: str
    after_id: str
    pairs: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    state: Literal["open", "closed"] = "open"
    round_id: str | None = None
    design: dict[str, Any] = field(default_factory=dict)
    created_by: str = ""
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """One rater's answer for one pair and question; `choice` is what they saw, already unblinded.

    Pairs from `len(study.pairs)` on are attention checks, in which "after" is the unspoiled picture.
    """

    study_id: str
    pair: int
    rater: str
    question: str
    choice: Literal["before", "after", "tie"]
    seconds: float = 0.0
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Invitation:
    """A link with which strangers become raters of one study; only its token's hash is kept."""

    token_hash: str
    study_id: str
    created_by: str
    expires: float
    places: int
    taken: int = 0
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Guest:
    """An account that an invitation made: it judges that one study and nothing else."""

    name: str
    study_id: str
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """A person with an account; the password is kept as a salted scrypt hash by `storage.accounts`."""

    name: str
    roles: tuple[str, ...]
    active: bool = True
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """One signed-in browser. Only the token's hash is kept; `csrf` must come with every change."""

    token_hash: str
    user: str
    csrf: str
    created: float
    expires: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A path, model or service that an admin registered, the only ones a browser may choose."""

    id: str
    kind: Literal["generator", "detector", "vqa", "segmenter", "llm", "label-studio", "folder", "webhook"]
    name: str
    location: str
    settings: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEvent:
    """Who did what to which thing, and when."""

    actor: str
    action: str
    subject: str
    details: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=now)
