"""The rounds desk at /rounds: the loop as a timeline, its figures, lineage, jobs and workers."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from dataengine.records import PAUSABLE, Job, WorkerBeat, round_name
from pipelines.config import Part, RoundRecipe
from pipelines.services import preflight, queue, round_options, rounds, runs
from pipelines.services.generators import drawn_unasked
from pipelines.services.jobs import cancel_job, pause_job, read_log, resume_job
from pipelines.services.locations import check_locations
from storage.queries.rounds import round_progress
from storage.workspace import Workspace
from ui.rounds.lineage import labels_csv, lineage_of
from ui.rounds.timeline import figures, people, timeline, waiting
from ui.web.access import roles
from ui.web.sessions import Person, Requires

READERS = roles("curator", "engineer")
SEEING_ROUNDS = Requires(READERS, "viewing rounds")
Reader = Annotated[Person, SEEING_ROUNDS]
"""A person who may see and run rounds."""
JOBS_SHOWN = 30
LOG_LINES = 200


class NewRound(BaseModel):
    """A recipe and its overrides."""

    model_config = ConfigDict(extra="forbid")
    recipe: str = Field(max_length=100)
    seed: int = Field(default=0, ge=0, lt=2**31)
    parts: list[Part] = Field(max_length=3)
    generators: list[Annotated[str, Field(max_length=200)]] = Field(default=[], max_length=200)
    prompts: int | None = Field(default=None, ge=1, le=10_000)
    images: int | None = Field(default=None, ge=1, le=1000)
    hard_prompts: int | None = Field(default=None, ge=1, le=10_000)
    budget: int | None = Field(default=None, ge=1, le=100_000)
    steps: int | None = Field(default=None, ge=1, le=10_000_000)
    updates: int | None = Field(default=None, ge=1, le=1_000_000)
    correction: str = Field(default="", max_length=40)
    guidance: str = Field(default="", max_length=40)
    dynamics: bool = False
    vqa: str = Field(default="", max_length=1000)
    question: int = Field(default=5, ge=1, le=50)
    second_detector: str = Field(
        default="", max_length=100, validation_alias=AliasChoices("second_detector", "rival")
    )


def rounds_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/rounds."""
    routes = APIRouter(prefix="/api/rounds", tags=["rounds"], dependencies=[SEEING_ROUNDS])

    @routes.get("")
    def overview() -> dict[str, Any]:
        """Every round with its figures, and the choices for a new one."""
        with workspace.catalog(read_only=True) as catalog:
            rows = figures(catalog)
            champion = catalog.detectors.champion()
            second_detectors = round_options.second_detectors(catalog)
            vqa_models = catalog.endpoints.of_kind("vqa")
            offered = list(reversed(catalog.generators.offered()))
            treated = [{"id": one.id, "name": one.name} for one in offered if one.treatment_id is not None]
        return {
            "generators": [
                {
                    "id": one.id,
                    "name": one.name,
                    "treated": one.treatment_id is not None,
                    "unasked": drawn_unasked(workspace, one),
                }
                for one in offered
            ],
            "rounds": rows,
            "recipes": round_options.recipe_names(),
            "vqa": [{"location": one.location, "name": one.name} for one in vqa_models],
            "questions": round_options.yes_no_questions(),
            "detectors": [{"id": one.id, "name": one.name} for one in second_detectors],
            "treated": treated,
            "champion": champion.name if champion else None,
        }

    @routes.get("/jobs")
    def jobs() -> dict[str, Any]:
        """The newest jobs and the running workers."""
        with workspace.catalog(read_only=True) as catalog:
            found = catalog.jobs.list(limit=JOBS_SHOWN)
            numbers = catalog.rounds.numbers()
        alive = queue.workers_alive(workspace)
        shown = [job_row(job) | {"of": job_owner(job, numbers)} for job in found]
        return {"jobs": shown, "workers": list(map(worker_row, alive))}

    @routes.get("/jobs/{job_id}/log")
    def log(job_id: str) -> dict[str, Any]:
        """The end of a job's log."""
        with workspace.catalog(read_only=True) as catalog:
            job = catalog.jobs.get(job_id)
        return job_row(job) | {"lines": read_log(workspace, job_id).splitlines()[-LOG_LINES:]}

    @routes.post("/jobs/{job_id}/cancel")
    def request_cancel(job_id: str, person: Reader) -> dict[str, Any]:
        """Cancel a job."""
        return job_row(cancel_job(workspace, job_id, person.name))

    @routes.post("/jobs/{job_id}/pause")
    def request_pause(job_id: str, person: Reader) -> dict[str, Any]:
        """Pause a training or treatment."""
        return job_row(pause_job(workspace, job_id, person.name))

    @routes.post("/jobs/{job_id}/resume")
    def request_resume(job_id: str, person: Reader) -> dict[str, Any]:
        """Resume a paused, failed or cancelled job."""
        return job_row(resume_job(workspace, job_id, person.name))

    @routes.get("/lineage/{generator_id}")
    def lineage_tree(generator_id: str) -> dict[str, Any]:
        """Everything a treated generator was built from."""
        with workspace.catalog(read_only=True) as catalog:
            return lineage_of(catalog, generator_id)

    @routes.get("/lineage/{generator_id}/labels.csv")
    def labels(generator_id: str) -> Response:
        """Every label behind a generator."""
        with workspace.catalog(read_only=True) as catalog:
            text = labels_csv(catalog, generator_id)
        headers = {"Content-Disposition": 'attachment; filename="labels.csv"'}
        return Response(text, media_type="text/csv", headers=headers)

    @routes.post("/checks")
    def checks(wanted: NewRound) -> dict[str, Any]:
        """Whether the round can run, what it takes at most, and how long by the speed of an earlier one."""
        plan = settings_of(workspace, wanted)
        with workspace.catalog(read_only=True) as catalog:
            known = {one.id: one for one in catalog.generators.offered()}
            cost = round_options.round_cost(plan, len(preflight.drawing_generators(workspace, plan, known)))
            expected = round_options.expected_seconds(catalog, cost)
            numbers = catalog.rounds.numbers()
        return {
            "checks": preflight.as_json(preflight.round_checks(workspace, plan)),
            "cost": asdict(cost) | {"drawn": cost.drawn},
            "seconds": expected and expected[0],
            "measured_in": expected and round_name(numbers, expected[1]),
        }

    @routes.post("/round")
    def start(wanted: NewRound, person: Reader) -> dict[str, str]:
        """Start a round; workers run it."""
        plan = settings_of(workspace, wanted)
        preflight.require(preflight.round_checks(workspace, plan))
        settings = plan.model_dump(mode="json")
        return {"round": rounds.start_round(workspace, settings, person.name).id}

    @routes.get("/round/{round_id}")
    def one_round(round_id: str) -> dict[str, Any]:
        """A round's timeline, counts and people."""
        with workspace.catalog(read_only=True) as catalog:
            progress = round_progress(catalog, round_id)
            row = progress.round
            return {
                "round": row.id,
                "name": round_name(catalog.rounds.numbers(), row.id),
                "recipe": row.recipe.get("name", ""),
                "state": row.state,
                "stage": row.stage,
                "message": row.message,
                "created": row.created,
                "images": progress.images,
                "queued": progress.queued,
                "answered": progress.answered,
                "pseudo_labels": progress.pseudo_labels,
                "hard": progress.hard_categories,
                "stages": timeline(catalog, row),
                "people": people(catalog, row),
                "waiting": waiting(catalog, row),
                "results": row.results,
            }

    @routes.post("/round/{round_id}/cancel")
    def cancel(round_id: str, person: Reader) -> dict[str, str]:
        """Cancel a round at its current stage."""
        return {"state": rounds.cancel_round(workspace, round_id, person.name).state}

    @routes.post("/round/{round_id}/resume")
    def resume(round_id: str, person: Reader) -> dict[str, str]:
        """Resume a failed or cancelled round."""
        return {"job": rounds.resume_round(workspace, round_id, person.name).id}

    return routes


def settings_of(workspace: Workspace, wanted: NewRound) -> RoundRecipe:
    """The recipe with the overrides. Raises `ConfigRefused` for a location that is not registered, `NotFound`
    for an unknown second detector."""
    with workspace.catalog(read_only=True) as catalog:
        generators = round_options.generator_ids(catalog, wanted.generators)
    overrides = round_options.RoundOverrides(
        generators=generators,
        prompts=wanted.prompts,
        images=wanted.images,
        hard_prompts=wanted.hard_prompts,
        budget=wanted.budget,
        steps=wanted.steps,
        updates=wanted.updates,
        correction=wanted.correction,
        guidance=wanted.guidance,
        dynamics=wanted.dynamics,
        question=(wanted.vqa, wanted.question) if wanted.vqa else None,
        second_detector=wanted.second_detector,
    )
    if wanted.second_detector and wanted.second_detector not in round_options.SECOND_DETECTORS:
        with workspace.catalog(read_only=True) as catalog:
            catalog.detectors.get(wanted.second_detector)
    plan = RoundRecipe.model_validate(
        round_options.recipe(wanted.recipe, wanted.seed, wanted.parts, overrides)
    )
    own = RoundRecipe.model_validate(round_options.recipe(wanted.recipe, wanted.seed, wanted.parts))
    check_locations(workspace, plan, [own])
    return plan


def job_row(job: Job) -> dict[str, Any]:
    """A job as a list shows it."""
    return {
        "id": job.id,
        "title": str(job.args.get("stage") or job.kind).replace("_", " "),
        "state": job.state,
        "progress": job.progress,
        "message": job.error or job.message,
        "at": job.finished or job.heartbeat or job.created,
        "by": job.requested_by,
        "round": job.args.get("round_id"),
        "stopping": job.cancel_requested and job.state in queue.OPEN,
        "pausing": job.pause_requested and job.state in queue.OPEN,
        "pausable": job.kind in PAUSABLE,
    }


def job_owner(job: Job, numbers: Mapping[str, int]) -> str:
    """What people call the round or run that a job belongs to; "" for neither."""
    if round_id := job.args.get("round_id"):
        return round_name(numbers, round_id)
    return runs.run_name(job) if "run" in job.args else ""


def worker_row(worker: WorkerBeat) -> dict[str, Any]:
    """A worker as a list shows it."""
    return {
        "host": worker.host,
        "pid": worker.pid,
        "job": worker.job_id,
        "devices": list(worker.devices) or ["cpu"],
    }
