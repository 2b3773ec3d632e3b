"""Triage: a dozen images of one category at a glance; cheap negatives, and drawings for the rest."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from dataengine.errors import Conflict
from dataengine.records import Label, QueueKind, now
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.access import ACCESS, require
from ui.annotation_bodies import ERRORS, TRIAGE_IMAGES, Short, TriageBody, Triaged, TriageGrid, TriageImage
from ui.auth import Person, signed_in

KINDS: tuple[QueueKind, ...] = ("triage", "draw")
"""What was sent to triage comes first; then what waits to be drawn may be looked through."""


def triage_routes(workspace: Workspace, lease_seconds: float) -> APIRouter:
    """The routes under /api/annotate/triage."""
    routes = APIRouter(prefix="/api/annotate/triage", tags=["triage"], responses=ERRORS)

    @routes.get("", response_model=TriageGrid, responses={204: {"description": "Nothing waits"}})
    def grid(
        person: Annotated[Person, Depends(signed_in)], category: Annotated[Short | None, Query()] = None
    ) -> Any:
        """A dozen images of one category under leases, the most urgent category unless one is named."""
        require(person.roles, ACCESS["/api/annotate"], "labelling")
        with workspace.catalog() as catalog:
            found = take_grid(catalog, person.name, category, lease_seconds)
            catalog.commit()
        return Response(status_code=204) if found is None else found

    @routes.post("", response_model=Triaged)
    def confirm(body: TriageBody, person: Annotated[Person, Depends(signed_in)]) -> Triaged:
        """Label the clean ones as such and queue the flawed ones for drawing; lost leases change nothing."""
        require(person.roles, ACCESS["/api/annotate"], "labelling")
        flawed = set(body.flawed)
        share = body.seconds / max(1, len(flawed | set(body.clean)))
        with workspace.catalog() as catalog:
            lost = [lease for lease in sorted(flawed) if not queue_for_drawing(catalog, lease, person.name)]
            clean = sorted(set(body.clean) - flawed)
            lost += [lease for lease in clean if not label_clean(catalog, lease, person.name, share)]
            catalog.commit()
        done = len(flawed | set(clean)) - len(lost)
        queued = len(flawed - set(lost))
        return Triaged(clean=done - queued, queued=queued, lost=lost)

    return routes


def take_grid(catalog: Catalog, person: str, category: str | None, lease_seconds: float) -> TriageGrid | None:
    """Lease a grid's images; those that this person holds already come along. None when nothing waits."""
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
                return TriageGrid(category=str(name), images=images, waiting=waiting[str(name)])
    return None


def label_clean(catalog: Catalog, lease_id: str, person: str, seconds: float) -> bool:
    """Label the leased image as clean; False when the lease was lost or its image answered meanwhile."""
    lease = catalog.queue.lease(lease_id)
    if lease is None:
        return False
    image = catalog.images.get(lease.image_id)
    champion = catalog.detectors.champion()
    label = Label(
        image_id=image.id,
        author=person,
        height=image.height,
        width=image.width,
        clean=True,
        lead_seconds=seconds,
        detector_id=champion.id if champion else None,
        note="triage",
    )
    try:
        catalog.labels.submit(label, lease_id, 0)
    except Conflict:
        return False
    return True


def queue_for_drawing(catalog: Catalog, lease_id: str, person: str) -> bool:
    """Queue the leased image for drawing; False when the lease was lost."""
    try:
        catalog.queue.to_draw(lease_id, person)
    except Conflict:
        return False
    return True
