"""Asking for work: what desks and commands may do. Torch-free; workers do the rest.

A request is a row in the catalog first and an entry in the workers' queue second, under the same id, so that
nothing asked for is lost: workers sweep up rows that never reached the queue.
"""

import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dataengine.errors import Conflict, InputRefused, NotFound
from dataengine.records import AuditEvent, DetectorVersion, Job, JobState, Round, WorkerBeat, now
from storage import jobs_database
from storage.job_files import LOG, METRICS
from storage.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from dbos import DBOSClient

    from pipelines.config import RoundRecipe
    from pipelines.stage import Stage
    from storage.catalog import Catalog

log = logging.getLogger(__name__)

JOB_QUEUE, TASK_QUEUE, JOB_WORKFLOW, APPLICATION = "jobs", "tasks", "job", "artifact-clinic"
LINE = (TASK_QUEUE, JOB_QUEUE)
"""Who waits for a device: jobs that a worker has looked at, through their task, and those that it has not."""
STAGE_JOB = "stage"
PLACE = "place"
"""The argument of a resumed job that says since when its work has stood in line."""
OPEN: tuple[JobState, ...] = ("queued", "running")
STOPPED: tuple[JobState, ...] = ("paused", "failed", "cancelled")
"""What can be resumed."""
CORRECTIONS: dict[str, dict[str, Any]] = {
    "ttc": {},
    "ttc-champion": {"regions": "detector"},
    "ttc-champion-repeated": {"regions": "detector", "repeated": True},
    "replacement": {"method": "replacement"},
    "clipping": {"method": "clipping"},
    "sargd": {"method": "sargd", "regions": "detector"},
    "everywhere": {"regions": "everywhere"},
}
"""Corrections while drawing by the name that people choose, and what it sets."""
GUIDANCES: dict[str, dict[str, Any]] = {
    "clean": {},
    "clean-regions": {"region": {}},
    "reward": {"kind": "reward"},
    "reward-regions": {"kind": "reward", "region": {}},
}
"""Likewise guidance without training."""
DYNAMICS, QUESTION = RIVALS = ("dynamics", "question")
"""Rivals in mining by the name that people choose: what a round keeps beside the champion's maps."""
PAUSABLE = ("retrain", "treat", "refine")
"""Work that knows places where it can stop with nothing lost."""


TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What moves a terminal's cursor."""


def lease_seconds() -> float:
    """Without a sign of life for this long, a worker counts as dead (`CLINIC_LEASE_SECONDS`, default 10)."""
    return float(os.environ.get("CLINIC_LEASE_SECONDS", "10"))


def request_job(workspace: Workspace, kind: str, args: dict[str, Any], requested_by: str = "") -> Job:
    """Ask for work that stands alone. Raises `ConfigRefused` for a kind that no worker knows."""
    from pipelines.jobs import kind_named

    kind_named(kind)
    job = Job(id=_fresh_id(kind), kind=kind, args=args, requested_by=requested_by)
    with workspace.catalog() as catalog:
        catalog.jobs.add(job)
        catalog.audit.add(AuditEvent(actor=requested_by, action="job.request", subject=job.id, details=args))
        catalog.commit()
    enqueue(workspace, job.id)
    return job


def start_round(
    workspace: Workspace,
    recipe: dict[str, Any],
    requested_by: str = "",
    stages: "Sequence[Stage] | None" = None,
) -> Round:
    """Begin a round; workers carry it on. Raises `pydantic.ValidationError` naming a wrong setting."""
    from pipelines.config import RoundRecipe

    settings = RoundRecipe.model_validate(recipe).model_dump(mode="json")
    first = (stages or _round_stages())[0].name
    row = Round(id=_fresh_id("round"), recipe=settings, stage=first)
    with workspace.catalog() as catalog:
        catalog.rounds.add(row)
        job = add_stage_job(catalog, row, stages, requested_by)
        catalog.audit.add(AuditEvent(actor=requested_by, action="round.start", subject=row.id))
        catalog.commit()
    if job:
        enqueue(workspace, job.id)
    return row


def cancel_job(workspace: Workspace, job_id: str, actor: str = "") -> Job:
    """Ask a job to stop: at once if it still waits, within two seconds if a worker has it."""
    with workspace.catalog() as catalog:
        job = catalog.jobs.get(job_id)
        if job.kind == STAGE_JOB:
            _stop(catalog, catalog.rounds.hold(job.args["round_id"]), actor)
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


def cancel_round(workspace: Workspace, round_id: str, actor: str = "") -> Round:
    """Stop a round where it stands; what its stages recorded stays, and it can be resumed."""
    with workspace.catalog() as catalog:
        row = catalog.rounds.hold(round_id)
        if row.state in ("done", "cancelled"):
            raise Conflict(f"round {round_id} is {row.state} already")
        _stop(catalog, row, actor)
        catalog.audit.add(AuditEvent(actor=actor, action="round.cancel", subject=round_id))
        catalog.commit()
        return catalog.rounds.get(round_id)


def _stop(catalog: "Catalog", row: Round, actor: str) -> None:
    """Cancel a held round and the job that it has come to by now."""
    if row.state in ("done", "cancelled"):
        return
    job = stage_job(catalog, row)
    if job and job.state in OPEN:
        catalog.jobs.request_cancel(job.id)
    catalog.rounds.set_state(row.id, "cancelled", f"cancelled by {actor or 'request'}")


def resume_round(
    workspace: Workspace, round_id: str, actor: str = "", stages: "Sequence[Stage] | None" = None
) -> Job:
    """Go on with a failed or cancelled round: its stage is asked for anew. Returns the stage's job."""
    with workspace.catalog() as catalog:
        row = catalog.rounds.hold(round_id)
        if row.state not in ("failed", "cancelled"):
            raise Conflict(f"round {round_id} is {row.state}; only a failed or cancelled one can be resumed")
        old = stage_job(catalog, row)
        if old and old.state in OPEN and old.cancel_requested:
            raise Conflict(f"round {round_id} is still stopping; resume it again in a few seconds")
        catalog.rounds.set_state(round_id, "running")
        job = add_stage_job(catalog, row, stages, actor)
        catalog.audit.add(AuditEvent(actor=actor, action="round.resume", subject=round_id))
        catalog.commit()
    if job is None:
        raise NotFound(f"round {round_id} waits for people at {row.stage!r}; a worker will look again")
    enqueue(workspace, job.id)
    return job


def stage_job(catalog: "Catalog", row: Round) -> Job | None:
    """The newest job for the stage that the round stands at."""
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
    from pipelines.stage import DONE, stage_named

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


def enqueue(workspace: Workspace, *job_ids: str) -> None:
    """Put jobs into the workers' queue under their own ids; once, however often it is called.

    Quietly does nothing while no worker has made the queue yet: the first one sweeps.
    """
    if not jobs_database.exists(workspace.jobs_url):
        return
    try:
        with jobs_client(workspace) as client:
            for job_id in job_ids:
                client.enqueue(
                    {"workflow_name": JOB_WORKFLOW, "queue_name": JOB_QUEUE, "workflow_id": job_id}, job_id
                )
                with workspace.catalog(read_only=True) as catalog:
                    since = place_of(catalog.jobs.get(job_id))
                jobs_database.stand_since(workspace.jobs_url, job_id, since)  # its own clock counts seconds
    except Exception as error:
        log.warning("jobs %s stay for the next sweep: %s", ", ".join(job_ids), error)


def place_of(job: Job) -> float:
    """Since when a job stands in line: since it was asked for, a resumed one since before it was paused."""
    return float(job.args.get(PLACE, job.created))


@contextmanager
def jobs_client(workspace: Workspace) -> "Iterator[DBOSClient]":
    """A client of the workers' queue that reads and writes portable JSON only."""
    from dbos import DBOSClient, DBOSPortableJSONSerializer

    client = DBOSClient(
        system_database_url=workspace.jobs_url,
        serializer=DBOSPortableJSONSerializer(),
        application_name=APPLICATION,
        retry_connection_errors=False,
    )
    try:
        yield client
    finally:
        client.destroy()


def workers_alive(workspace: Workspace) -> list[WorkerBeat]:
    """Workers that gave a sign of life within the lease."""
    with workspace.catalog(read_only=True) as catalog:
        return catalog.workers.alive(now() - lease_seconds())


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


def read_metrics(workspace: Workspace, job_id: str, limit: int = 2000) -> list[dict[str, Any]]:
    """A job's figures over time, thinned to at most `limit` lines; a half-written last line is left out."""
    path = workspace.job_files.read(job_id, METRICS)
    if not path.is_file():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    step = max(1, -(-len(lines) // limit))
    return [json.loads(line) for line in lines[::step]]


def find_artifacts(workspace: Workspace, image: "np.ndarray") -> "tuple[str, np.ndarray]":
    """The champion's id and its map (uint8 HW, 255 is certain) for a uint8 HWC image, from the inference
    service.

    Raises `ServiceAbsent` when no worker offers it on this machine.
    """
    from pipelines.inference import Client

    return Client(workspace.path).find_artifacts(image)


def segment(
    workspace: Workspace,
    name: str,
    image: "np.ndarray",
    clicks: "Sequence[tuple[float, float, bool]]",
    box: "Sequence[float] | None" = None,
) -> "tuple[float, np.ndarray]":
    """Score and mask (uint8 HW, 0 or 1) of what was clicked on in a uint8 HWC image, from the inference
    service; `name` is what its embedding is kept under.

    Raises `ServiceAbsent` when no worker offers it on this machine, `InputRefused` without a segmenter.
    """
    from pipelines.inference import Client

    return Client(workspace.path).segment(name, image, clicks, box)


def estimate(workspace: Workspace, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a run of kind "train" or "treat" would need, from the inference service: bytes, seconds, verdict.

    Raises `ServiceAbsent` when no worker offers it on this machine, `InputRefused` for what cannot be loaded.
    """
    from pipelines.inference import Client

    return Client(workspace.path).estimate(kind, settings)


def stage_names() -> list[str]:
    """The stages of a round, in order."""
    return [stage.name for stage in _round_stages()]


def stages_left_out(row: Round) -> set[str]:
    """The stages that the round's recipe does without."""
    from pipelines.stage import left_out

    return left_out(row)


def recipe_names() -> list[str]:
    """The named recipes that a round can be run with."""
    from pipelines.recipes import RECIPES

    return list(RECIPES)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a round does otherwise than its recipe says; empty leaves the recipe's own."""

    budget: int | None = None
    """Images for people."""
    correction: str = ""
    """A name in `CORRECTIONS`."""
    guidance: str = ""
    """A name in `GUIDANCES`."""
    dynamics: bool = False
    """Keep maps of score dynamics beside the champion's."""
    question: tuple[str, int] | None = None
    """A VQA model, and the number of one of the paper's questions whose verdicts are kept likewise."""
    rival: str = ""
    """Whose disagreement with the champion counts in mining: a detector's id, or one of `RIVALS`."""


def recipe(name: str, seed: int, parts: Sequence[str], wishes: Wishes | None = None) -> dict[str, Any]:
    """A named recipe's settings with these parts and wishes.

    Raises `NotFound` naming the recipes there are, `InputRefused` for a part or wish that is none.
    """
    from pydantic import ValidationError

    from pipelines.config import RoundRecipe
    from pipelines.recipes import named

    wishes = wishes or Wishes()
    settings = named(name, seed).model_dump(mode="json") | {"parts": list(parts)}
    if wishes.budget is not None:
        settings["mine"]["budget"] = wishes.budget
    for field, chosen, known in (
        ("correction", wishes.correction, CORRECTIONS),
        ("guidance", wishes.guidance, GUIDANCES),
    ):
        if chosen and chosen not in known:
            raise InputRefused(f"{field} is {chosen!r}: choose {', '.join(known)}, or leave it empty")
        if chosen:
            settings["generate"][field] = known[chosen]
    if wishes.dynamics or wishes.rival == DYNAMICS:
        settings["diagnose"]["dynamics"] = settings["diagnose"]["dynamics"] or {}
    if wishes.question is not None:
        settings["diagnose"]["question"] = {"model": wishes.question[0], "number": wishes.question[1]}
    try:
        found = RoundRecipe.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputRefused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return _with_rival(found, wishes.rival).model_dump(mode="json")


def _with_rival(recipe: "RoundRecipe", rival: str) -> "RoundRecipe":
    """The recipe with that rival in mining, which has as much of a say as uncertainty unless it says more."""
    if not rival:
        return recipe
    from pipelines import dynamics, questioning

    if rival == DYNAMICS and recipe.diagnose.dynamics is not None:
        rival = dynamics.identity(recipe.diagnose.dynamics)
    if rival == QUESTION:
        if recipe.diagnose.question is None:
            raise InputRefused("the rival is a question's verdict, and no VQA model is asked: choose one")
        rival = questioning.identity(recipe.diagnose.question)
    mine = recipe.mine.model_copy(update={"rival": rival, "disagreement": recipe.mine.disagreement or 1.0})
    return recipe.model_copy(update={"mine": mine})


def rivals(catalog: "Catalog") -> list[DetectorVersion]:
    """Detectors that may disagree with the champion in mining, the newest first, besides `RIVALS`."""
    from pipelines import dynamics, questioning

    champion = catalog.detectors.champion()
    found = [one for one in reversed(catalog.detectors.list()) if champion is None or one.id != champion.id]
    return [one for one in found if not dynamics.watches(one) and not questioning.asks(one)]


def yes_no_questions() -> list[tuple[int, str]]:
    """The paper's questions to a VQA model, by number."""
    from dataengine.curation.questions import QUESTIONS

    return [(one.number, one.text) for one in QUESTIONS]


def check_webhook(location: str) -> None:
    """Raise `InputRefused` for an address to which workers would not send."""
    from pipelines.webhook import check_target

    check_target(location)


def _stage_job_id(row: Round, attempt: int) -> str:
    return f"{row.id}.{row.stage}.{attempt}"


def _fresh_id(kind: str) -> str:
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _round_stages() -> "Sequence[Stage]":
    from pipelines.round import ROUND

    return ROUND
