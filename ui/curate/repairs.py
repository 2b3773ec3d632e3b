"""Repairs: request one of an image, and accept or reject what was proposed."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from pipelines.selections.config import RepairRun
from pipelines.services.images.repairs import decide_repairs, list_repairs, request_repair
from pipelines.services.schemas import Name, RequestBody
from storage.queries.repairs import RepairState
from storage.workspace import Workspace
from ui.web.sessions import SignedIn


class RepairOrder(RequestBody):
    """An image to repair, and the models if they are not the usual ones."""

    image: Name
    generator: Name
    detector: Name | None = None
    chooser: Name | None = None
    prompt: str = Field(default="", max_length=20_000)


class Decision(RequestBody):
    """Proposed repairs that become images of the catalog, or do not."""

    repairs: list[Name] = Field(min_length=1, max_length=200)
    accept: bool


def repair_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/repairs."""
    routes = APIRouter(prefix="/repairs")

    @routes.get("")
    def repairs(
        state: RepairState = "proposed",
        image: Annotated[str | None, Query(max_length=128)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 60,
    ) -> dict[str, Any]:
        return list_repairs(workspace, state, image, limit)

    @routes.get("/choices")
    def choices() -> dict[str, Any]:
        """The models of a repair; the first generator is the newest."""
        with workspace.catalog(read_only=True) as catalog:
            generators = [{"id": one.id, "name": one.name} for one in reversed(catalog.generators.offered())]
        return {"generators": generators}

    @routes.post("")
    def order(body: RepairOrder, person: SignedIn) -> dict[str, str]:
        run = RepairRun(
            ids=(body.image,),
            generator=body.generator,
            detector=body.detector,
            chooser=body.chooser,
            prompt=body.prompt,
        )
        return {"job": request_repair(workspace, run, person.name).id}

    @routes.post("/decide")
    def decide(body: Decision, person: SignedIn) -> dict[str, int]:
        return {"decided": decide_repairs(workspace, body.repairs, body.accept, person.name)}

    return routes
