"""Images by what they look like: similar ones, the map, near-duplicates."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import JSONResponse

from pipelines.selections.config import ImageQuery
from pipelines.services.admin.maintenance import erase_images
from pipelines.services.images.atlas import (
    images_at_place,
    map_points,
    map_state,
    near_duplicates,
    request_once,
    shown_job,
    similar_images,
)
from pipelines.services.schemas import Name, RequestBody
from storage.queries.lasso import SIDE
from storage.workspace import Workspace
from ui.curate.cards import card
from ui.curate.reviews import Judge
from ui.web.sessions import SignedIn

Place = Annotated[int, Query(ge=0, le=SIDE)]


class Erasure(RequestBody):
    """Near-duplicates to erase; a trial only counts what would go."""

    images: list[Name] = Field(min_length=1, max_length=1_000)
    trial: bool = True


def atlas_routes(workspace: Workspace) -> APIRouter:
    """/similar, /features, /map and /duplicates."""
    routes = APIRouter()

    @routes.get("/similar/{image_id}")
    def similar(image_id: str, limit: Annotated[int, Query(ge=1, le=200)] = 47) -> dict[str, Any]:
        found = similar_images(workspace, image_id, limit)
        hits = found.pop("hits", [])
        with workspace.catalog(read_only=True) as catalog:
            tags = catalog.tags.of([hit["card"].id for hit in hits])
        cards = [card(hit["card"], tags, rank=hit["rank"], similarity=hit["similarity"]) for hit in hits]
        return found | {"cards": cards}

    @routes.post("/features")
    def features(person: SignedIn) -> dict[str, Any]:
        job = request_once(workspace, "features", person.name)
        return {"job": job.id, "state": shown_job(job)}

    @routes.get("/map")
    def state() -> dict[str, Any]:
        return map_state(workspace)

    @routes.post("/map")
    def draw(person: SignedIn) -> dict[str, Any]:
        return {"job": request_once(workspace, "map", person.name).id}

    @routes.get("/map/points")
    def points(query: Annotated[ImageQuery, Query()]) -> JSONResponse:
        return JSONResponse(map_points(workspace, query))

    @routes.get("/map/at")
    def at(x: Place, y: Place) -> dict[str, Any]:
        return {"images": images_at_place(workspace, x, y)}

    @routes.get("/duplicates")
    def duplicates(
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 30,
    ) -> dict[str, Any]:
        found = near_duplicates(workspace, after, limit)
        groups = [group | {"cards": list(map(card, group["cards"]))} for group in found["groups"]]
        return found | {"groups": groups}

    @routes.post("/duplicates/erase")
    def erase(body: Erasure, person: Judge) -> dict[str, Any]:
        erased = asdict(erase_images(workspace, body.images, person.name, body.trial))
        return {name: erased[name] for name in ("images", "labels", "snapshots", "benchmarks", "detectors")}

    return routes
