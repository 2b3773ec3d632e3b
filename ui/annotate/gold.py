"""Several opinions of one image as one: the merged map, the soft mean; and images whose answer is known."""

from typing import Annotated, Any

from fastapi import APIRouter, Response

from dataengine.curation.agreement import majority, soft_mean
from dataengine.errors import Conflict, NotFound
from dataengine.masks import quantise
from dataengine.records import AuditEvent, GoldImage
from pipelines.services.schemas import Short
from storage.catalog import Catalog
from storage.stores.maps import label_map
from storage.workspace import Workspace
from ui.annotate.schemas import GoldBody
from ui.web.access import CURATORS, may
from ui.web.errors import ERRORS
from ui.web.images import map_response
from ui.web.sessions import Person, Requires

Curator = Annotated[Person, Requires(CURATORS, "curating")]
"""Who may see what annotators must not."""


def opinion_routes(workspace: Workspace) -> APIRouter:
    """The routes for merged maps and gold images."""
    routes = APIRouter(prefix="/api/annotate", tags=["opinions"], responses=ERRORS)

    @routes.get("/merged/{image_id}", response_class=Response)
    def merged(image_id: Short, person: Curator, soft: bool = False) -> Response:
        """Gzipped raw uint8: the majority's class, or with `soft` the share who marked, 255 for all."""
        with workspace.catalog(read_only=True) as catalog:
            labels = catalog.labels.of_images([catalog.images.get(image_id).id])
        if not labels:
            raise NotFound(f"nobody has labelled image {image_id!r} yet")
        maps = [label_map(workspace.blobs, label) for label in labels]
        found = quantise(soft_mean(maps)) if soft else majority(maps)
        return map_response(found, **{"X-Opinions": str(len(maps))})

    @routes.post("/gold")
    def choose(body: GoldBody, person: Curator) -> dict[str, bool]:
        """Make an image gold: the author's newest label of it is the known answer, if it counts."""
        with workspace.catalog() as catalog:
            known = catalog.labels.latest(body.image, body.author)
            if known is None:
                raise NotFound(f"{body.author!r} has not labelled image {body.image!r}")
            verdicts = catalog.reviews.verdicts([body.image])
            if verdicts.get((body.image, body.author, known.revision)) in ("rejected", "corrected"):
                raise Conflict("that label was returned or replaced; only one that counts can be gold")
            gold = GoldImage(
                image_id=known.image_id,
                label_map=known.label_map,
                clean=known.clean,
                chosen_by=person.name,
            )
            catalog.gold.choose(gold)
            catalog.audit.add(AuditEvent(actor=person.name, action="gold.choose", subject=known.image_id))
            catalog.commit()
        return {"gold": True}

    @routes.delete("/gold/{image_id}")
    def drop(image_id: Short, person: Curator) -> dict[str, bool]:
        """Make it an ordinary image again."""
        with workspace.catalog() as catalog:
            dropped = catalog.gold.drop(image_id)
            if dropped:
                catalog.audit.add(AuditEvent(actor=person.name, action="gold.drop", subject=image_id))
            catalog.commit()
        return {"dropped": bool(dropped)}

    return routes


def gold_seen(catalog: Catalog, image_id: str, person: Person) -> dict[str, Any] | None:
    """Whether an image is gold and by whom, for curators; None tells others nothing."""
    if not may(person.roles, CURATORS):
        return None
    gold = catalog.gold.find(image_id)
    return {"chosen": gold is not None, "by": gold.chosen_by if gold else ""}
