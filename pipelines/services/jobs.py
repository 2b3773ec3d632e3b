"""Request, cancel, pause and resume jobs; read their logs."""

import re
from typing import Any

from dataengine.errors import ConfigRefused, Conflict
from dataengine.records import JOB_KINDS, PAUSABLE, STAGE_JOB, AuditEvent, Job
from pipelines.services.queue import OPEN, PLACE, STOPPED, enqueue, fresh_id
from pipelines.services.rounds import resume_round, stop_held_round
from storage.stores.job_files import LOG
from storage.workspace import Workspace

NOISE = re.compile(
    r"\d+%\|.*\| *[\d.]+[kMG]?/[\d.]+|\d+it \[\d\d:\d\d"  # bars of tqdm
    r"|(Future|Deprecation|User)Warning: |^  warnings\.warn\("  # of libraries, in Python's form
    r"|were passed to .* but are not expected and will be ignored"  # of diffusers
)
"""Lines of a log that say nothing about the job."""
TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Terminal escape sequences."""


def request_job(workspace: Workspace, kind: str, args: dict[str, Any], requested_by: str = "") -> Job:
    """Request a standalone job. Raises `ConfigRefused` for an unknown kind."""
    if kind not in JOB_KINDS:
        raise ConfigRefused(f"unknown job kind {kind!r}; kinds are {', '.join((STAGE_JOB, *JOB_KINDS))}")
    job = Job(id=fresh_id(kind), kind=kind, args=args, requested_by=requested_by)
    with workspace.catalog() as catalog:
        catalog.jobs.add(job)
        catalog.audit.add(AuditEvent(actor=requested_by, action="job.request", subject=job.id, details=args))
        catalog.commit()
    enqueue(workspace, job.id)
    return job


def cancel_job(workspace: Workspace, job_id: str, actor: str = "") -> Job:
    """Cancel a job: at once if it is queued, within two seconds if it is running."""
    with workspace.catalog() as catalog:
        job = catalog.jobs.get(job_id)
        if job.kind == STAGE_JOB:
            stop_held_round(catalog, catalog.rounds.hold(job.args["round_id"]), actor)
        job = catalog.jobs.request_cancel(job_id)
        catalog.audit.add(AuditEvent(actor=actor, action="job.cancel", subject=job_id))
        catalog.commit()
    return job


def pause_job(workspace: Workspace, job_id: str, actor: str = "") -> Job:
    """Pause a job after its current update or page of images, which frees its device.

    It keeps its state and its place in the queue. Raises `Conflict` for other kinds and for jobs that ended.
    """
    with workspace.catalog() as catalog:
        job = catalog.jobs.get(job_id)
        if job.kind not in PAUSABLE:
            raise Conflict(
                f"job {job_id} cannot be paused; cancel it instead: checkpoints are kept, it can be resumed"
            )
        if job.state not in OPEN:
            raise Conflict(f"job {job_id} is already {job.state}; nothing to pause")
        job = catalog.jobs.request_pause(job_id)
        catalog.audit.add(AuditEvent(actor=actor, action="job.pause", subject=job_id))
        catalog.commit()
    return job


def resume_job(workspace: Workspace, job_id: str, actor: str = "") -> Job:
    """Resume a paused, failed or cancelled job from its last checkpoint. A paused one gets its place in the
    queue back. Raises `Conflict` while it runs.
    """
    with workspace.catalog(read_only=True) as catalog:
        old = catalog.jobs.get(job_id)
        later = [job for job in catalog.jobs.list(kind=old.kind) if job.created > old.created]
    run = old.args.get("run")
    if run and (newer := [job.id for job in later if job.args.get("run") == run]):
        raise Conflict(f"job {job_id} was already resumed as {newer[0]}")
    if old.state not in STOPPED:
        raise Conflict(f"job {job_id} is {old.state}; only a paused, failed or cancelled one can be resumed")
    if old.kind == STAGE_JOB:
        return resume_round(workspace, old.args["round_id"], actor)
    args = {name: value for name, value in old.args.items() if name != PLACE}
    if old.state == "paused":
        args[PLACE] = old.args.get(PLACE, old.created)
    return request_job(workspace, old.kind, args, actor)


def read_log(workspace: Workspace, job_id: str, tail: int = 20_000) -> str:
    """The last `tail` bytes of a job's log, "" where there is none."""
    path = workspace.job_files.read(job_id, LOG)
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - tail))
        return legible(file.read().decode(errors="replace"))


def legible(text: str) -> str:
    """A log without escape sequences, progress bars, and warnings of libraries that mean nothing to its
    reader; of an overwritten line, the last text."""
    lines = (
        next((part for part in reversed(line.split("\r")) if part), "")
        for line in TERMINAL.sub("", text).split("\n")
    )
    return "\n".join(line for line in lines if not NOISE.search(line))
