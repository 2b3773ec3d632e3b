"""The clinic's data: frozen records shared by every layer.

Ids are strings, times are seconds since the epoch, sizes are (height, width), shares are fractions in [0, 1].
Random choices carry their seed. Records are independent of how and where they are stored.
"""

from dataengine.records.accounts import ROLES, AuditEvent, Endpoint, Session, User
from dataengine.records.annotation import (
    Comment,
    Draft,
    GoldImage,
    GoldScore,
    IdempotencyKey,
)
from dataengine.records.datasets import Benchmark, BenchmarkItem, SampleKind, Snapshot, SnapshotItem
from dataengine.records.identity import (
    Report,
    Split,
    digest,
    image_id,
    no_report,
    not_pausing,
    now,
    prompt_group,
    split_of,
)
from dataengine.records.images import (
    CategoryAnswer,
    HardCategory,
    Image,
    Prediction,
    Prompt,
    PseudoLabel,
    Source,
)
from dataengine.records.labels import AND, DEFAULT_CLASSES, ERASED, Label, LabelSource, Review
from dataengine.records.models import (
    FILES,
    THRESHOLD,
    DetectorVersion,
    GeneratorVersion,
    OperatingPoint,
    Treatment,
    component_threshold_of,
    describe_point,
    threshold_of,
)
from dataengine.records.queue import Lease, QueueItem, QueueKind
from dataengine.records.studies import Guest, Invitation, Study, Vote
from dataengine.records.work import (
    JOB_KINDS,
    PAUSABLE,
    STAGE_JOB,
    Job,
    JobState,
    Round,
    RoundState,
    WorkerBeat,
)

__all__ = [
    "AND",
    "DEFAULT_CLASSES",
    "ERASED",
    "FILES",
    "JOB_KINDS",
    "PAUSABLE",
    "ROLES",
    "STAGE_JOB",
    "THRESHOLD",
    "AuditEvent",
    "Benchmark",
    "BenchmarkItem",
    "CategoryAnswer",
    "Comment",
    "DetectorVersion",
    "Draft",
    "Endpoint",
    "GeneratorVersion",
    "GoldImage",
    "GoldScore",
    "Guest",
    "HardCategory",
    "IdempotencyKey",
    "Image",
    "Invitation",
    "Job",
    "JobState",
    "Label",
    "LabelSource",
    "Lease",
    "OperatingPoint",
    "Prediction",
    "Prompt",
    "PseudoLabel",
    "QueueItem",
    "QueueKind",
    "Report",
    "Review",
    "Round",
    "RoundState",
    "SampleKind",
    "Session",
    "Snapshot",
    "SnapshotItem",
    "Source",
    "Split",
    "Study",
    "Treatment",
    "User",
    "Vote",
    "WorkerBeat",
    "component_threshold_of",
    "describe_point",
    "digest",
    "image_id",
    "no_report",
    "not_pausing",
    "now",
    "prompt_group",
    "split_of",
    "threshold_of",
]
