"""Records of rounds, jobs and workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import now

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
RoundState = Literal["running", "waiting", "done", "failed", "cancelled"]

STAGE_JOB = "stage"
"""The kind of a job that runs a round's stage."""
JOB_KINDS = (
    *("import", "backup", "restore", "pull", "features", "dynamics", "retrain", "treat", "compare", "refine"),
    *("diagnose", "categorize", "mine", "pseudo-label", "inject", "repair", "dreambooth", "measure"),
    *("demo", "export", "register", "map", "play"),
)
"""The kinds of jobs outside rounds; `pipelines.worker.handlers` runs each."""
PAUSABLE = (
    *("retrain", "treat", "refine", "diagnose", "categorize", "pseudo-label", "inject", "repair"),
    "dreambooth",
)
"""The kinds of jobs that can be paused without losing work."""


def round_name(numbers: Mapping[str, int], round_id: str) -> str:
    """What people call a round, such as "round 3"; its id where its number is unknown."""
    return f"round {numbers[round_id]}" if round_id in numbers else round_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One iteration of the loop: the next stage, and the stored results of the finished ones."""

    id: str
    recipe: dict[str, Any]
    stage: str
    state: RoundState = "running"
    results: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    created: float = field(default_factory=now)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A requested piece of work; `id` is also the workflow's id."""

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
    pause_requested: bool = False
    created: float = field(default_factory=now)
    started: float | None = None
    heartbeat: float | None = None
    finished: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerBeat:
    """The last heartbeat of a worker."""

    id: str
    host: str
    pid: int
    devices: tuple[str, ...] = ()
    job_id: str | None = None
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes in use and in all by device, as its processes last measured them: keys `used` and `total`."""
    beat: float = field(default_factory=now)
