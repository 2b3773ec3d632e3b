"""What /train and /treat share: a run's status, curves and log; cancel, pause and resume."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from dataengine.errors import NotFound
from pipelines.services import jobs, queue, runs
from pipelines.services.standalone import registration
from storage.workspace import Workspace
from ui.runs.curves import Series, curves_csv
from ui.web.access import ADMINS, ENGINEERS, may, roles
from ui.web.blob_pool import reads_blobs
from ui.web.images import IMMUTABLE, map_response
from ui.web.sessions import Person, Requires, SignedIn

LOG_TAIL = 8_000
POINTS = 800
MOST_BESIDE = 20
Beside = Annotated[Sequence[str], Query(max_length=MOST_BESIDE)]
"""Ids of other runs of the same kind."""

Kind = Literal["retrain", "treat", "dreambooth"]

JOB_READERS = roles("curator", "engineer")
Admin = Annotated[Person, Requires(ADMINS, "changing the order of the queue")]


class Settings(BaseModel):
    """Settings as a form holds them; the run's own configuration checks them."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any]


class NewName(BaseModel):
    """What a person calls something."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=1000)


def run_routes(workspace: Workspace, kind: str) -> APIRouter:
    """The routes under runs/ for runs of one kind."""
    routes = APIRouter(prefix="/runs")

    @routes.get("")
    def listed() -> dict[str, Any]:
        return {"runs": run_rows(workspace, kind)}

    @routes.get("/{run_id}")
    def standing(run_id: str) -> dict[str, Any]:
        run = runs.run_of(workspace, kind, run_id)
        return {
            **runs.run_status(workspace, run),
            "name": runs.run_name(run.job),
            "size": runs.metrics_size(workspace, run.jobs),
            "settings": run.job.args["settings"],
        }

    @routes.get("/{run_id}/curves")
    def curves(
        run_id: str, points: Annotated[int, Query(ge=10, le=5000)] = POINTS
    ) -> dict[str, tuple[list[int], list[float]]]:
        return runs.curves(workspace, runs.run_of(workspace, kind, run_id).jobs, points)

    @routes.get("/{run_id}/curves.csv")
    def curves_file(run_id: str, beside: Beside = ()) -> Response:
        return curves_csv(curves_of(workspace, kind, [run_id, *beside]))

    @routes.get("/{run_id}/log")
    def log(run_id: str) -> dict[str, str]:
        return {"log": jobs.read_log(workspace, runs.run_of(workspace, kind, run_id).job.id, LOG_TAIL)}

    @routes.get("/{run_id}/samples")
    def samples(run_id: str) -> dict[str, Any]:
        kept = runs.kept_json(workspace, runs.run_of(workspace, kind, run_id).id, "samples.json")
        return {name: kept[name] for name in ("step", "samples") if name in kept}

    @routes.get("/{run_id}/maps/{ref}")
    @reads_blobs
    def confidence_map(run_id: str, ref: str) -> Response:
        shown = sample_ref(workspace, runs.run_of(workspace, kind, run_id).id, ref)
        return map_response(workspace.maps.get(shown), **{"Cache-Control": IMMUTABLE})

    @routes.post("/{run_id}/rename")
    def rename(run_id: str, body: NewName, person: SignedIn) -> dict[str, str]:
        runs.rename_run(workspace, runs.run_of(workspace, kind, run_id), body.name, person.name)
        return {"name": body.name.strip()}

    @routes.post("/{run_id}/cancel")
    def cancel(run_id: str, person: SignedIn) -> dict[str, str]:
        job = runs.cancel_run(workspace, runs.run_of(workspace, kind, run_id), person.name)
        return {"state": job.state}

    @routes.post("/{run_id}/pause")
    def pause(run_id: str, person: SignedIn) -> dict[str, str]:
        job = runs.pause_run(workspace, runs.run_of(workspace, kind, run_id), person.name)
        return {"state": job.state}

    @routes.post("/{run_id}/resume")
    def resume(run_id: str, person: SignedIn) -> dict[str, str]:
        job = runs.resume_run(workspace, runs.run_of(workspace, kind, run_id), person.name)
        return {"state": job.state, "job": job.id}

    return routes


def curves_of(workspace: Workspace, kind: str, run_ids: Sequence[str]) -> dict[str, Series]:
    """The curves of runs by their names; two of one name are told apart by their ids. Raises `NotFound`."""
    found: dict[str, Series] = {}
    for id in run_ids:
        run = runs.run_of(workspace, kind, id)
        name = runs.run_name(run.job)
        found[f"{name} ({id})" if name in found else name] = runs.curves(workspace, run.jobs)
    return found


def queue_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/queue: admins may change the order."""
    routes = APIRouter(prefix="/api/queue")

    @routes.post("/{kind}/{run_id}/first")
    def move_first(kind: Kind, run_id: str, person: Admin) -> dict[str, str]:
        runs.move_run_first(workspace, runs.run_of(workspace, kind, run_id), person.name)
        return {"moved": run_id}

    return routes


class Registration(BaseModel):
    """A detector or generator that an admin allowed, or that is shipped."""

    model_config = ConfigDict(extra="forbid")

    kind: registration.Kind
    location: str = Field(min_length=1, max_length=500)
    name: str = Field(default="", max_length=100)
    licence: str = Field(default="", max_length=200)


def model_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/models: engineers register detectors and generators."""
    routes = APIRouter(prefix="/api/models", dependencies=[Requires(ENGINEERS, "registering models")])

    @routes.get("/{kind}")
    def choices(kind: registration.Kind, person: SignedIn) -> dict[str, Any]:
        models = registration.registrable_models(workspace, kind)
        return {"models": models, "may_allow": may(person.roles, ADMINS)}

    @routes.post("/register")
    def register(body: Registration, person: SignedIn) -> dict[str, str]:
        job = registration.request_registration(
            workspace, body.kind, body.location, body.name.strip(), body.licence.strip(), person.name
        )
        return {"job": job.id}

    return routes


def job_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/jobs: how a job stands, for the page that asked for it."""
    routes = APIRouter(prefix="/api/jobs", dependencies=[Requires(JOB_READERS, "following jobs")])

    @routes.get("/{job_id}")
    def standing(job_id: str) -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            job = catalog.jobs.get(job_id)
        shown = ("id", "kind", "state", "progress", "message", "error", "result")
        alive = bool(queue.workers_alive(workspace))
        return {**{name: getattr(job, name) for name in shown}, "worker": alive}

    @routes.post("/{job_id}/cancel")
    def cancel(job_id: str, person: SignedIn) -> dict[str, str]:
        return {"state": jobs.cancel_job(workspace, job_id, person.name).state}

    return routes


def run_rows(workspace: Workspace, kind: str) -> list[dict[str, Any]]:
    """A row for every run, as the list shows it."""
    return [
        {
            "run": run.id,
            "name": runs.run_name(run.job),
            "state": run.job.state,
            "progress": run.job.progress,
            "message": run.job.error or run.job.message,
            "created": run.jobs[-1].created,
            "by": run.job.requested_by,
        }
        for run in runs.runs(workspace, kind)
    ]


def sample_ref(workspace: Workspace, run_id: str, ref: str) -> str:
    """The name of a blob or map, if the run shows it or recently did. Raises `NotFound`."""
    kept = runs.kept_json(workspace, run_id, "samples.json")
    shown = [kept.get("recent", []), [list(one.values()) for one in kept.get("samples", [])]]
    if not any(ref in refs for looks in shown for refs in looks):
        raise NotFound("this run no longer shows that image; reload the page")
    return ref
