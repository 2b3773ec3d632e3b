"""Detectors, generators, treatments, and the rounds and jobs that make them."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dataengine.records.identity import now

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
RoundState = Literal["running", "waiting", "done", "failed", "cancelled"]


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
    pause_requested: bool = False
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
