"""Request, cancel, pause and resume jobs; read their logs."""

import re
from typing import Any

from dataengine.errors import ConfigRefused, Conflict
from dataengine.records import JOB_KINDS, PAUSABLE, STAGE_JOB, AuditEvent, Job
from pipelines.services.queue import OPEN, PLACE, STOPPED, enqueue, fresh_id
from pipelines.services.rounds import resume_round, stop_held_round
from storage.stores.job_files import LOG
from storage.workspace import Workspace

TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What moves a terminal's cursor."""


def request_job(workspace: Workspace, kind: str, args: dict[str, Any], requested_by: str = "") -> Job:
    """Ask for work that stands alone. Raises `ConfigRefused` for a kind that no worker knows."""
    if kind not in JOB_KINDS:
        raise ConfigRefused(
            f"there is no job of kind {kind!r}; kinds are {', '.join((STAGE_JOB, *JOB_KINDS))}"
        )
    job = Job(id=fresh_id(kind), kind=kind, args=args, requested_by=requested_by)
    with workspace.catalog() as catalog:
        catalog.jobs.add(job)
        catalog.audit.add(AuditEvent(actor=requested_by, action="job.request", subject=job.id, details=args))
        catalog.commit()
    enqueue(workspace, job.id)
    return job


def cancel_job(workspace: Workspace, job_id: str, actor: str = "") -> Job:
    """Ask a job to stop: at once if it still waits, within two seconds if a worker has it."""
    with workspace.catalog() as catalog:
        job = catalog.jobs.get(job_id)
        if job.kind == STAGE_JOB:
            stop_held_round(catalog, catalog.rounds.hold(job.args["round_id"]), actor)
        job = catalog.jobs.request_cancel(job_id)
        catalog.audit.add(AuditEvent(actor=actor, action="job.cancel", subject=job_id))
        catalog.commit()
    return job


def pause_job(workspace: Workspace, job_id: str, actor: str = "") -> Job:
    """Ask a training or treatment to give its device free after the update in hand, and to wait.

    It keeps everything and its place in line. Raises `Conflict` for other work and for what has ended.
    """
    with workspace.catalog() as catalog:
        job = catalog.jobs.get(job_id)
        if job.kind not in PAUSABLE:
            raise Conflict(
                f"job {job_id} cannot pause; cancel it: what it has kept stays, and it can be resumed"
            )
        if job.state not in OPEN:
            raise Conflict(f"job {job_id} is {job.state} already, so there is nothing to pause")
        job = catalog.jobs.request_pause(job_id)
        catalog.audit.add(AuditEvent(actor=actor, action="job.pause", subject=job_id))
        catalog.commit()
    return job


def resume_job(workspace: Workspace, job_id: str, actor: str = "") -> Job:
    """Ask again for a paused, failed or cancelled job; it goes on from what it had kept. A paused one takes
    the place in line that it had. Raises `Conflict` while it runs.
    """
    with workspace.catalog(read_only=True) as catalog:
        old = catalog.jobs.get(job_id)
        later = [job for job in catalog.jobs.list(kind=old.kind) if job.created > old.created]
    run = old.args.get("run")
    if run and (newer := [job.id for job in later if job.args.get("run") == run]):
        raise Conflict(f"job {job_id} was resumed already: it went on as {newer[0]}")
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
    """A log for people: of a line that was written over, as by a progress bar, what it said last."""
    return "\n".join(
        next((part for part in reversed(line.split("\r")) if part), "")
        for line in TERMINAL.sub("", text).split("\n")
    )
