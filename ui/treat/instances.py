"""The form and the runs at /treat?learn=1: a generator learns an instance (DreamBooth) before its layers are
treated."""

from typing import Annotated, Any

from fastapi import APIRouter, Response

from dataengine.errors import InputRefused
from pipelines.selections.config import InstanceRun
from pipelines.services import preflight, runs
from pipelines.services.images.filters import parse_query
from pipelines.services.locations import check_locations, offers
from pipelines.services.standalone.dreambooth import (
    check_instance,
    instance_strip,
    select_instance,
    start_instance,
)
from storage.workspace import Workspace
from ui.runs.routes import Settings, run_routes
from ui.web.access import ENGINEERS
from ui.web.blob_pool import reads_blobs
from ui.web.sessions import Person, Requires
from ui.web.settings_form import form

Engineer = Annotated[Person, Requires(ENGINEERS, "learning an instance")]
SHOWN = 100


def instance_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/treat/instances."""
    routes = APIRouter(prefix="/instances")
    routes.include_router(run_routes(workspace, runs.INSTANCE))

    @routes.get("/form")
    def described_form() -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            generators = list(reversed(catalog.generators.offered()))
        return {
            "fields": form(InstanceRun, {}, offers(workspace)),
            "choices": {"generator": [[one.id, one.name] for one in generators[:SHOWN]]},
        }

    @routes.post("/checks")
    def checks(body: Settings) -> dict[str, Any]:
        return {"checks": preflight.as_json(check_instance(workspace, plan_of(workspace, body)))}

    @routes.post("/start")
    def start(body: Settings, person: Engineer) -> dict[str, str]:
        return {"run": start_instance(workspace, plan_of(workspace, body), person.name).args["run"]}

    @routes.get("/runs/{run_id}/instance.png")
    @reads_blobs
    def strip(run_id: str) -> Response:
        settings = runs.run_of(workspace, runs.INSTANCE, run_id).job.args["settings"]
        png = instance_strip(workspace, InstanceRun.model_validate(settings))
        return Response(png, media_type="image/png")

    return routes


def plan_of(workspace: Workspace, body: Settings) -> InstanceRun:
    """The form's settings; the images of the catalog come as a selection in words, as on the command line or
    in a link to the Curate page, and are fixed now.

    Raises `ConfigRefused` naming an invalid field or a location that is not registered, `InputRefused` and
    `NotFound` for a selection.
    """
    if not body.settings.get("generator"):
        raise InputRefused("choose a generator first; register one with clinic generators --add FOLDER")
    words = str(body.settings.get("ids") or "").split()
    ids = select_instance(workspace, parse_query(words)) if words else ()
    plan = runs.validated(InstanceRun, {**body.settings, "ids": list(ids)})
    check_locations(workspace, plan)
    return plan
