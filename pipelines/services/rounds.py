"""Start, cancel and resume rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataengine.errors import Conflict, NotFound
from dataengine.records import STAGE_JOB, AuditEvent, Job, Round
from pipelines.runtime.holders import died_here
from pipelines.services.queue import OPEN, enqueue, fresh_id, lease_seconds
from storage.workspace import Workspace

if TYPE_CHECKING:
    from pipelines.stages.stage import Stage
    from storage.catalog import Catalog


def start_round(
    workspace: Workspace,
    recipe: dict[str, Any],
    requested_by: str = "",
    stages: "Sequence[Stage] | None" = None,
) -> Round:
    """Start a round; workers run it. Raises `pydantic.ValidationError` naming a wrong setting."""
    from pipelines.config import RoundRecipe

    settings = RoundRecipe.model_validate(recipe).model_dump(mode="json")
    first = (stages or _round_stages())[0].name
    row = Round(id=fresh_id("round"), recipe=settings, stage=first)
    with workspace.catalog() as catalog:
        catalog.rounds.add(row)
        job = add_stage_job(catalog, row, stages, requested_by)
        catalog.audit.add(AuditEvent(actor=requested_by, action="round.start", subject=row.id))
        catalog.commit()
    if job:
        enqueue(workspace, job.id)
    return row


def cancel_round(workspace: Workspace, round_id: str, actor: str = "") -> Round:
    """Cancel a round at its current stage; recorded results are kept, and it can be resumed."""
    with workspace.catalog() as catalog:
        row = catalog.rounds.hold(round_id)
        if row.state in ("done", "cancelled"):
            raise Conflict(f"round {round_id} is already {row.state}")
        stop_held_round(catalog, row, actor)
        catalog.audit.add(AuditEvent(actor=actor, action="round.cancel", subject=round_id))
        catalog.commit()
        return catalog.rounds.get(round_id)


def stop_held_round(catalog: "Catalog", row: Round, actor: str) -> None:
    """Cancel a held round and the job of its current stage."""
    if row.state in ("done", "cancelled"):
        return
    job = stage_job(catalog, row)
    if job and job.state in OPEN:
        catalog.jobs.request_cancel(job.id)
    catalog.rounds.set_state(row.id, "cancelled", f"cancelled by {actor or 'request'}")


def resume_round(
    workspace: Workspace, round_id: str, actor: str = "", stages: "Sequence[Stage] | None" = None
) -> Job:
    """Resume a failed or cancelled round, or one whose holder died: its stage runs again. Returns the
    stage's job."""
    with workspace.catalog() as catalog:
        row = catalog.rounds.hold(round_id)
        old = stage_job(catalog, row)
        if row.state == "running" and old and holder_is_dead(workspace, catalog, old):
            catalog.jobs.finish(old.id, "failed", error=f"{old.worker} died; the round was resumed")
        elif row.state not in ("failed", "cancelled"):
            raise Conflict(f"round {round_id} is {row.state}; only a failed or cancelled one can be resumed")
        if old and old.state in OPEN and old.cancel_requested:
            raise Conflict(f"round {round_id} is still stopping; try again in a few seconds")
        catalog.rounds.set_state(round_id, "running")
        job = add_stage_job(catalog, row, stages, actor)
        catalog.audit.add(AuditEvent(actor=actor, action="round.resume", subject=round_id))
        catalog.commit()
    if job is None:
        raise NotFound(f"round {round_id} waits for annotators at {row.stage!r}; a worker checks regularly")
    enqueue(workspace, job.id)
    return job


def holder_is_dead(workspace: Workspace, catalog: "Catalog", job: Job) -> bool:
    """Whether a running job's holder died: at once if it was a command on this machine, else by its lease."""
    if job.state != "running" or job.worker is None:
        return False
    if died_here(workspace.path, job.worker):
        return True
    alive = {beat.id for beat in catalog.workers.alive(lease_seconds())}
    return job.worker not in alive and job.id in catalog.jobs.silent(lease_seconds())


def stage_job(catalog: "Catalog", row: Round) -> Job | None:
    """The newest job of the round's current stage."""
    newest, attempt = None, 1
    while True:
        try:
            newest = catalog.jobs.get(_stage_job_id(row, attempt))
        except NotFound:
            return newest
        attempt += 1


def add_stage_job(
    catalog: "Catalog", row: Round, stages: "Sequence[Stage] | None" = None, requested_by: str = ""
) -> Job | None:
    """Write the job of the round's stage unless one is open; the caller commits, then enqueues.

    Its id follows from round, stage and attempt, so two workers that do this at once write one row. None for
    a stage that waits for people, and when the round is over.
    """
    from pipelines.stages.stage import DONE, stage_named

    if row.stage == DONE or stage_named(row.stage, stages or _round_stages()).people:
        return None
    newest = stage_job(catalog, row)
    if newest and newest.state in OPEN:
        return newest
    attempt = int(newest.id.rpartition(".")[2]) + 1 if newest else 1
    args = {"round_id": row.id, "stage": row.stage}
    job = Job(id=_stage_job_id(row, attempt), kind=STAGE_JOB, args=args, requested_by=requested_by)
    catalog.jobs.add(job)
    return job


@dataclass(frozen=True, kw_only=True)
class StageDescription:
    """A stage of one round, as people read about it."""

    name: str
    title: str
    takes: str
    """What it works on."""
    found: str
    """What its recorded result says; empty before there is one."""
    section: str
    """The section of the recipe that sets it up."""
    people: bool
    """It waits for people, and has no job."""
    skipped: bool
    """The round's recipe leaves it out."""


def describe_stages(row: Round, stages: "Sequence[Stage] | None" = None) -> list[StageDescription]:
    """Every stage of a round, in order."""
    from pipelines.stages.stage import skipped_stages

    stages = stages or _round_stages()
    skipped = skipped_stages(row, stages)
    return [
        StageDescription(
            name=stage.name,
            title=stage.title,
            takes=stage.takes,
            found=stage.summary(row.results[stage.name]) if stage.name in row.results else "",
            section=stage.section,
            people=stage.people,
            skipped=stage.name in skipped,
        )
        for stage in stages
    ]


def _stage_job_id(row: Round, attempt: int) -> str:
    return f"{row.id}.{row.stage}.{attempt}"


def _round_stages() -> "Sequence[Stage]":
    from pipelines.round import ROUND

    return ROUND
