"""Triage: a dozen images of one category at once; clean ones are labelled, flawed ones queued for drawing."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from dataengine.records import QueueKind, now
from pipelines.services.schemas import Short
from pipelines.services.triage import SECONDS_EACH, confirm_triage, undo_triage
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.annotate.annotator import Annotator
from ui.annotate.schemas import (
    TRIAGE_IMAGES,
    TriageBody,
    Triaged,
    TriageGrid,
    TriageImage,
    TriageUndo,
    Undone,
)
from ui.web.errors import ERRORS

KINDS: tuple[QueueKind, ...] = ("triage", "draw")
"""Items sent to triage come first, then those waiting to be drawn."""


def triage_routes(workspace: Workspace, lease_seconds: float) -> APIRouter:
    """The routes under /api/annotate/triage."""
    routes = APIRouter(prefix="/api/annotate/triage", tags=["triage"], responses=ERRORS)

    @routes.get("", response_model=TriageGrid, responses={204: {"description": "Nothing waits"}})
    def grid(person: Annotator, category: Annotated[Short | None, Query()] = None) -> Any:
        """A dozen images of one category under leases, the most urgent category unless one is named."""
        with workspace.catalog() as catalog:
            found = take_grid(catalog, person.name, category, lease_seconds)
            catalog.commit()
        return Response(status_code=204) if found is None else found

    @routes.post("", response_model=Triaged)
    def confirm(body: TriageBody, person: Annotator) -> Triaged:
        """Label the clean ones as such and queue the flawed ones for drawing; lost leases change nothing."""
        clean, queued, lost = confirm_triage(workspace, body.clean, body.flawed, person.name, body.seconds)
        return Triaged(clean=clean, queued=queued, lost=lost)

    @routes.post("/undo", response_model=Undone)
    def undo(body: TriageUndo, person: Annotator) -> Undone:
        """Take a confirmed batch back: its images wait for triage again."""
        undone, kept = undo_triage(workspace, body.leases, person.name)
        return Undone(undone=undone, kept=kept)

    return routes


def take_grid(catalog: Catalog, person: str, category: str | None, lease_seconds: float) -> TriageGrid | None:
    """Lease a grid's images, including those that this person holds. None when nothing waits."""
    moment = now()
    for kind in KINDS:
        waiting = dict(catalog.queue.categories(person, kind))
        for name in [category] if category in waiting else list(waiting) if category is None else []:
            leases = []
            for _ in range(TRIAGE_IMAGES):
                lease = catalog.queue.next(person, moment, lease_seconds, kind, category=name)
                if lease is None:
                    break
                leases.append(lease)
            if leases:
                images = [
                    TriageImage(
                        lease=lease.id,
                        image=lease.image_id,
                        url=f"/api/images/{lease.image_id}/pixels",
                        prompt=catalog.images.get(lease.image_id).prompt,
                    )
                    for lease in leases
                ]
                return TriageGrid(
                    category=str(name), images=images, waiting=waiting[str(name)], seconds_each=SECONDS_EACH
                )
    return None
