"""Several opinions of one image as one: the merged map, the soft mean; and images whose answer is known."""

import gzip
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from pipelines.services.agreement import merged_opinions
from pipelines.services.gold import choose_gold, drop_gold
from pipelines.services.schemas import Short
from storage.catalog import Catalog
from storage.workspace import Workspace
from ui.annotate.schemas import GoldBody
from ui.web.access import may, require, roles
from ui.web.errors import ERRORS
from ui.web.sessions import Person, signed_in

CURATING = roles("curator")


async def curating(person: Annotated[Person, Depends(signed_in)]) -> Person:
    """FastAPI dependency: a curator, for what annotators must not see."""
    require(person.roles, CURATING, "curating")
    return person


Curator = Annotated[Person, Depends(curating)]


def opinion_routes(workspace: Workspace) -> APIRouter:
    """The routes for merged maps and gold images."""
    routes = APIRouter(prefix="/api/annotate", tags=["opinions"], responses=ERRORS)

    @routes.get("/merged/{image_id}", response_class=Response)
    def merged(image_id: Short, person: Curator, soft: bool = False) -> Response:
        """Gzipped raw uint8: the majority's class, or with `soft` the share who marked, 255 for all."""
        found, opinions = merged_opinions(workspace, image_id, soft)
        headers = {
            "Content-Encoding": "gzip",
            "X-Height": str(found.shape[0]),
            "X-Width": str(found.shape[1]),
            "X-Opinions": str(opinions),
        }
        body = gzip.compress(found.tobytes(), 4)
        return Response(body, headers=headers, media_type="application/octet-stream")

    @routes.post("/gold")
    def choose(body: GoldBody, person: Curator) -> dict[str, bool]:
        """Make an image gold: the author's newest label of it is the known answer, if it counts."""
        choose_gold(workspace, body.image, body.author, person.name)
        return {"gold": True}

    @routes.delete("/gold/{image_id}")
    def drop(image_id: Short, person: Curator) -> dict[str, bool]:
        """Make it an ordinary image again."""
        return {"dropped": drop_gold(workspace, image_id, person.name)}

    return routes


def gold_seen(catalog: Catalog, image_id: str, person: Person) -> dict[str, Any] | None:
    """Whether an image is gold and by whom, for curators; None tells others nothing."""
    if not may(person.roles, CURATING):
        return None
    gold = catalog.gold.find(image_id)
    return {"chosen": gold is not None, "by": gold.chosen_by if gold else ""}
