"""Images by what they look like: similar ones, the map, near-duplicates."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from pipelines.selections.config import ImageQuery
from pipelines.services.images.similar import (
    images_at_place,
    map_points,
    map_state,
    near_duplicates,
    request_once,
    shown_job,
    similar_images,
)
from storage.queries.lasso import SIDE
from storage.workspace import Workspace
from ui.curate.cards import card
from ui.web.sessions import SignedIn

Place = Annotated[int, Query(ge=0, le=SIDE)]


def similar_routes(workspace: Workspace) -> APIRouter:
    """/similar, /features, /map and /duplicates."""
    routes = APIRouter()

    def tags_of(ids: list[str]) -> Mapping[str, Sequence[str]]:
        with workspace.catalog(read_only=True) as catalog:
            return catalog.tags.of(ids)

    @routes.get("/similar/{image_id}")
    def similar(image_id: str, limit: Annotated[int, Query(ge=1, le=200)] = 47) -> dict[str, Any]:
        found = similar_images(workspace, image_id, limit)
        hits = found.pop("hits", [])
        tags = tags_of([hit["card"].id for hit in hits])
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
        tags = tags_of([one.id for group in found["groups"] for one in group["cards"]])
        groups = [group | {"cards": [card(one, tags) for one in group["cards"]]} for group in found["groups"]]
        return found | {"groups": groups}

    return routes
