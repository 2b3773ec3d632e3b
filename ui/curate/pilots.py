"""Pilots: start one, and what it found."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from pipelines.services.images.pilots import NewPilot, list_pilots, pilot_report, start_pilot
from storage.workspace import Workspace
from ui.curate.reviews import Judge
from ui.web.access import CURATORS
from ui.web.sessions import Requires


def pilot_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/curate/pilots; figures of single annotators are for curators."""
    routes = APIRouter(prefix="/pilots", dependencies=[Requires(CURATORS, "running pilots")])

    @routes.get("")
    def pilots() -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            return {"pilots": list_pilots(catalog)}

    @routes.post("")
    def start(body: NewPilot, person: Judge) -> dict[str, str]:
        return {"id": start_pilot(workspace, body, person.name).id}

    @routes.get("/{pilot_id}")
    def report(pilot_id: str, target: Annotated[int, Query(ge=1, le=100_000_000)] = 1000) -> dict[str, Any]:
        return pilot_report(workspace, pilot_id, target)

    return routes
