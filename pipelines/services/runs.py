"""Standalone training and treatment runs: requests and status. Torch-free.

A run has its own id and may take several jobs: every resumption is a new job that continues from the run's
last checkpoint.
"""

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dataengine.errors import ConfigRefused, Conflict, NotFound
from dataengine.records import AuditEvent, Job, WorkerBeat
from pipelines.config import TrainingRun, TreatmentRun
from pipelines.detectors.start import choose_start
from pipelines.services import preflight, queue
from pipelines.services.jobs import cancel_job, pause_job, request_job, resume_job
from pipelines.services.names import plain_name
from storage import job_queue
from storage.stores.job_files import METRICS
from storage.workspace import Workspace

Settings = TypeVar("Settings", bound=BaseModel)

TRAINING, TREATMENT, INSTANCE = "retrain", "treat", "dreambooth"


KINDS = {TRAINING: "train", TREATMENT: "treat", INSTANCE: "instance"}
NO_WORKER = "No worker is running, so this job is waiting. Start one with “clinic worker”."
RATE_SECONDS = 30.0
"""The rate is averaged over this many seconds."""
SAMPLED = 30
"""Lines that are parsed to find the start of that interval."""
NOT_FIGURES = frozenset({"time", "done", "total"})
RARE = b'"validation_', b'"guard_', b'"mean_confidence"'
"""Marks of metrics lines that thinning always keeps."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run with its jobs, the newest first."""

    id: str
    jobs: tuple[Job, ...]

    @property
    def job(self) -> Job:
        """The job that determines the run's state."""
        return self.jobs[0]


def request_run(workspace: Workspace, kind: str, settings: BaseModel, actor: str = "") -> Job:
    """Queue a new run with these settings."""
    run = f"{KINDS[kind]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    return request_job(workspace, kind, {"run": run, "settings": settings.model_dump(mode="json")}, actor)


def start_training(workspace: Workspace, plan: TrainingRun, actor: str) -> Job:
    """Queue a training; what it starts from is fixed now. Raises `ConfigRefused` when a check fails."""
    preflight.require(preflight.training_checks(workspace, plan))
    with workspace.catalog(read_only=True) as catalog:
        fixed = choose_start(catalog, plan).fixed_in(plan)
    return request_run(workspace, TRAINING, fixed, actor)


def with_detector(workspace: Workspace, plan: TreatmentRun) -> TreatmentRun:
    """The plan against today's champion where it names no detector. Raises `NotFound` for its generator."""
    with workspace.catalog(read_only=True) as catalog:
        catalog.generators.get(plan.generator)
        champion = catalog.detectors.champion()
    if plan.detector is None and champion is not None:
        return plan.model_copy(update={"detector": champion.id})
    return plan


def check_treatment(workspace: Workspace, plan: TreatmentRun) -> list[preflight.Check]:
    """The checks of a treatment that need no models. Raises `NotFound`."""
    with workspace.catalog(read_only=True) as catalog:
        base = catalog.generators.get(plan.generator)
        detector = catalog.detectors.get(plan.detector) if plan.detector else None
    return preflight.treatment_checks(workspace, plan, base, detector)


def start_treatment(workspace: Workspace, plan: TreatmentRun, actor: str) -> Job:
    """Queue a treatment; the detector that it runs against is fixed now. Raises `ConfigRefused` when a check
    fails.
    """
    plan = with_detector(workspace, plan)
    preflight.require(check_treatment(workspace, plan))
    return request_run(workspace, TREATMENT, plan, actor)


def runs(workspace: Workspace, kind: str, limit: int = 100) -> list[Run]:
    """The newest runs, newest first."""
    with workspace.catalog(read_only=True) as catalog:
        jobs = catalog.jobs.list(kind=kind)
    grouped: dict[str, list[Job]] = {}
    for job in jobs:
        grouped.setdefault(job.args["run"], []).append(job)
    return [Run(id=id, jobs=tuple(found)) for id, found in list(grouped.items())[:limit]]


def run_of(workspace: Workspace, kind: str, run_id: str) -> Run:
    """The run of that id. Raises `NotFound`."""
    for run in runs(workspace, kind, limit=1_000_000):
        if run.id == run_id:
            return run
    raise NotFound(f"there is no run {run_id!r}; it may belong to another workspace")


def resume_run(workspace: Workspace, run: Run, actor: str = "") -> Job:
    """Resume a stopped run from its last checkpoint. Raises `Conflict` while it is open."""
    return resume_job(workspace, run.job.id, actor)


def pause_run(workspace: Workspace, run: Run, actor: str = "") -> Job:
    """Pause the run, which frees its device. Raises `Conflict` when it has ended."""
    return pause_job(workspace, run.job.id, actor)


def cancel_run(workspace: Workspace, run: Run, actor: str = "") -> Job:
    """Cancel the run; its checkpoints are kept. Raises `Conflict` when it has ended."""
    if run.job.state not in (*queue.OPEN, "paused"):
        raise Conflict(f"run {run.id} is already {run.job.state}; nothing to cancel")
    return cancel_job(workspace, run.job.id, actor)


def rename_run(workspace: Workspace, run: Run, name: str, actor: str = "") -> None:
    """Give a run another name. What it makes keeps the name in its settings. Raises `InputRefused` for what
    is no name."""
    name = plain_name(name)
    with workspace.catalog() as catalog:
        catalog.jobs.rename_run((job.id for job in run.jobs), name)
        details = {"before": run_name(run.job), "after": name}
        catalog.audit.add(AuditEvent(actor=actor, action="run.rename", subject=run.id, details=details))
        catalog.commit()


def run_name(job: Job) -> str:
    """What people call the run of a job."""
    settings = job.args.get("settings", {})
    named = job.args.get("name") or settings.get("name") or settings.get("training", {}).get("name")
    return str(named or job.args["run"])


def run_status(workspace: Workspace, run: Run) -> dict[str, Any]:
    """State, progress, rate and notes, as JSON."""
    job = run.job
    alive = queue.workers_alive(workspace)
    figures = last_figures(workspace, run)
    if job.state not in queue.OPEN:
        figures = {name: value for name, value in figures.items() if name in ("step", "total")}
    waits = jobs_in_line(workspace) if job.state in queue.OPEN and not figures else []
    return {
        "run": run.id,
        "job": job.id,
        "state": job.state,
        "progress": job.progress,
        "message": job.message,
        "error": job.error,
        "note": note_of(job, alive),
        "position": waits.index(job.id) + 1 if job.id in waits else None,
        "created": run.jobs[-1].created,
        "started": job.started,
        "finished": job.finished,
        "by": job.requested_by,
        "attempts": len(run.jobs),
        "stopping": job.cancel_requested and job.state in queue.OPEN,
        "pausing": job.pause_requested and job.state in queue.OPEN,
        "result": job.result,
        **figures,
    }


def note_of(job: Job, alive: Sequence[WorkerBeat]) -> str:
    """What blocks an open job, in words; "" for nothing."""
    if job.state not in queue.OPEN:
        return ""
    if not alive:
        return NO_WORKER
    if job.state == "running" and job.worker not in {beat.id for beat in alive}:
        return (
            "The worker running this job stopped responding. Another worker resumes it within seconds from "
            "the last checkpoint."
        )
    return ""


def jobs_in_line(workspace: Workspace) -> list[str]:
    """Ids of the jobs that wait for a device, the next one first; [] while there is no queue."""
    if not job_queue.exists(workspace.jobs_url):
        return []
    found = job_queue.waiting_workflows(workspace.jobs_url, *queue.LINE)
    with workspace.catalog(read_only=True) as catalog:
        waiting = {job.id for job in catalog.jobs.list(states=queue.OPEN)}
    return [job for job in dict.fromkeys(flow.partition(":")[0] for flow in found) if job in waiting]


def move_run_first(workspace: Workspace, run: Run, actor: str = "") -> None:
    """Move a waiting run to the front of the queue. Raises `Conflict` when it is not waiting."""
    job, url = run.job.id, workspace.jobs_url
    waits = job in jobs_in_line(workspace)
    if not waits or not any(job_queue.move_first(url, queue.LINE, id) for id in (f"{job}:run", job)):
        raise Conflict(f"run {run.id} is {run.job.state} and not in the queue, so it cannot be moved")
    with workspace.catalog() as catalog:
        catalog.audit.add(AuditEvent(actor=actor, action="job.first", subject=job))
        catalog.commit()


def last_figures(workspace: Workspace, run: Run) -> dict[str, Any]:
    """Step, total, steps per second and seconds left, from the end of the run's metrics file."""
    lines = tail_of(metrics_file(workspace, run.job))
    if not lines:
        return {}
    last = json.loads(lines[-1])
    few = map(json.loads, lines[:: max(1, len(lines) // SAMPLED)])
    first = next((line for line in few if line["time"] >= last["time"] - RATE_SECONDS), last)
    steps, seconds = last["done"] - first["done"], last["time"] - first["time"]
    rate = steps / seconds if steps > 0 and seconds > 0 else None
    left = (last["total"] - last["done"]) / rate if rate else None
    return {"step": last["done"], "total": last["total"], "rate": rate, "left": left}


def tail_of(path: Path, bytes_read: int = 32_768) -> list[bytes]:
    """The last whole lines of a metrics file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - bytes_read))
        body = file.read()
    whole = body[: body.rfind(b"\n") + 1].splitlines()
    return whole[1:] if len(body) == bytes_read else whole


def metrics_file(workspace: Workspace, job: Job) -> Path:
    """The job's figures so far, wherever it runs."""
    return workspace.job_files.read(job.id, METRICS)


def metrics_size(workspace: Workspace, jobs: Iterable[Job]) -> int:
    """Bytes of all figures of these jobs; grows while they run."""
    files = [metrics_file(workspace, job) for job in jobs]
    return sum(path.stat().st_size for path in files if path.is_file())


def curves(
    workspace: Workspace, jobs: Sequence[Job], points: int = 800
) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every figure of a run's jobs, at most `points` of those that every step has.

    Rare figures, such as those of validation, are all kept. Steps that were repeated after a crash count
    from the later attempt.
    """
    lines: list[dict[str, Any]] = []
    for job in sorted(jobs, key=lambda job: job.created):
        lines += thinned(metrics_file(workspace, job), points)
    kept: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in NOT_FIGURES and isinstance(value, int | float):
                series = kept.setdefault(name, {})
                if series and next(reversed(series)) > line["done"]:
                    kept[name] = series = {step: old for step, old in series.items() if step < line["done"]}
                series[line["done"]] = value
    return {name: (list(series), list(series.values())) for name, series in kept.items()}


def thinned(path: Path, points: int) -> list[dict[str, Any]]:
    """At most about `points` lines of a metrics file, and every rare one; a half-written last one is left
    out."""
    if not path.is_file():
        return []
    body = path.read_bytes()
    lines = body[: body.rfind(b"\n") + 1].splitlines()
    step = max(1, -(-len(lines) // points))
    last = len(lines) - 1
    return [
        json.loads(line)
        for number, line in enumerate(lines)
        if number % step == 0 or number == last or any(mark in line for mark in RARE)
    ]


def kept_json(workspace: Workspace, run_id: str, name: str) -> dict[str, Any]:
    """A small JSON file that the run stores beside its figures; {} without one."""
    return workspace.job_files.get(run_id, name) or {}


def validated(kind: type[Settings], values: Any) -> Settings:
    """Settings from a form. Raises `ConfigRefused` naming the first wrong field, what it was, and why."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigRefused(sentence(error)) from None


def sentence(error: ValidationError) -> str:
    """The first problem of a validation in one sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    given, limits = first.get("input"), first.get("ctx", {})
    reason = first["msg"].removeprefix("Value error, ")
    if plain := PLAIN.get(first["type"]):
        reason = plain.format(**{name: _plainly(value) for name, value in limits.items()})
    if first["type"] == "missing":
        return f"{where} {reason}"
    if first["type"] == "string_too_short" and given == "":
        return f"{where} is empty: enter a value"
    if not where or isinstance(given, dict | list):
        return f"{where}: {reason}" if where else reason
    return f"{where} is {'empty' if given in (None, '') else repr(given)}: {reason[0].lower()}{reason[1:]}"


PLAIN = {
    "int_parsing": "enter a whole number",
    "int_type": "enter a whole number",
    "int_from_float": "enter a whole number",
    "float_parsing": "enter a number",
    "float_type": "enter a number",
    "finite_number": "enter a finite number",
    "greater_than": "it must be more than {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be at most {le}",
    "literal_error": "choose {expected}",
    "extra_forbidden": "there is no such setting",
    "missing": "is needed",
    "string_too_short": "it needs at least {min_length} characters",
    "string_too_long": "it may have at most {max_length} characters",
}
"""What people read of a kind of validation error; others are told in the validator's own words."""


def _plainly(value: Any) -> str:
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)
