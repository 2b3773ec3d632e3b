"""Merged labels of an image (majority or soft mean), and gold images, whose answer is known."""

from typing import Annotated, Any

from fastapi import APIRouter, Response

from pipelines.services.agreement import merged_opinions
from pipelines.services.gold import choose_gold, drop_gold
from pipelines.services.schemas import Short
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.annotate.schemas import GoldBody
from ui.web.access import CURATORS, may
from ui.web.blob_pool import reads_blobs
from ui.web.errors import ERRORS
from ui.web.images import map_response
from ui.web.sessions import Person, Requires

Curator = Annotated[Person, Requires(CURATORS, "curating")]
"""Who may see merged labels and gold images; annotators may not."""


def opinion_routes(workspace: Workspace) -> APIRouter:
    """The routes for merged maps and gold images."""
    routes = APIRouter(prefix="/api/annotate", tags=["opinions"], responses=ERRORS)

    @routes.get("/merged/{image_id}", response_class=Response)
    @reads_blobs
    def merged(image_id: Short, person: Curator, soft: bool = False) -> Response:
        """Gzipped raw uint8: the majority's class, or with `soft` the share who marked, 255 for all."""
        found, opinions = merged_opinions(workspace, image_id, soft)
        return map_response(found, **{"X-Opinions": str(opinions)})

    @routes.post("/gold")
    def choose(body: GoldBody, person: Curator) -> dict[str, bool]:
        """Make an image gold: the author's newest label of it is the known answer, if it counts."""
        choose_gold(workspace, body.image, body.author, person.name)
        return {"gold": True}

    @routes.delete("/gold/{image_id}")
    def drop(image_id: Short, person: Curator) -> dict[str, bool]:
        """Make the image an ordinary one again."""
        return {"dropped": drop_gold(workspace, image_id, person.name)}

    return routes


def gold_seen(catalog: Catalog, image_id: str, person: Person) -> dict[str, Any] | None:
    """Whether an image is gold, and who chose it; None for everyone but curators."""
    if not may(person.roles, CURATORS):
        return None
    gold = catalog.gold.find(image_id)
    return {"chosen": gold is not None, "by": gold.chosen_by if gold else ""}
