"""The form at /train?inject=1: artifacts injected into clean images, with samples of each kind."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from dataengine.injection.config import InjectionConfig
from dataengine.records import INJECTION_KINDS, InjectionKind
from pipelines.selections.config import InjectionRun
from pipelines.services import runs
from pipelines.services.images.filters import parse_query
from pipelines.services.images.injection import (
    NO_START,
    count_clean,
    count_injected,
    injection_sample,
)
from pipelines.services.images.work import request_work
from storage.workspace import Workspace
from ui.runs.routes import Settings
from ui.web.access import ENGINEERS
from ui.web.blob_pool import reads_blobs
from ui.web.sessions import Person, Requires
from ui.web.settings_form import form

Engineer = Annotated[Person, Requires(ENGINEERS, "injecting artifacts")]
Words = Annotated[str, Query(max_length=1000)]
"""A selection of images, as `clinic inject --images` takes it."""
SAMPLES_KEPT = "private, max-age=60"


def injection_routes(workspace: Workspace) -> APIRouter:
    """The routes under /api/train/inject."""
    routes = APIRouter(prefix="/inject")

    @routes.get("/form")
    def described_form() -> dict[str, Any]:
        with workspace.catalog(read_only=True) as catalog:
            generators = [[one.id, one.name] for one in catalog.generators.offered()]
        return {
            "fields": form(InjectionRun, InjectionRun().model_dump(mode="json")),
            "choices": {"generator": generators},
            "kinds": INJECTION_KINDS,
            "note": NO_START,
            "injected": count_injected(workspace),
        }

    @routes.get("/clean")
    def clean(images: Words = "") -> dict[str, int]:
        """How many of the selected images artifacts can be injected into."""
        return {"clean": count_clean(workspace, parse_query(images.split()))}

    @routes.get("/samples/{kind}")
    @reads_blobs
    def sample(kind: InjectionKind, seed: Annotated[int, Query(ge=0)] = 0, images: Words = "") -> Response:
        """Without content when no image that is tried shows this kind."""
        png = injection_sample(workspace, parse_query(images.split()), InjectionConfig(seed=seed), kind)
        if png is None:
            return Response(status_code=204)
        return Response(png, media_type="image/png", headers={"Cache-Control": SAMPLES_KEPT})

    @routes.post("/start")
    def start(body: Settings, person: Engineer) -> dict[str, str]:
        """The selection of images comes in words, as on the command line or in a link to the Curate page."""
        images = parse_query(str(body.settings.get("images", "")).split())
        run = runs.validated(InjectionRun, {**body.settings, "images": images.model_dump(mode="json")})
        return {"job": request_work(workspace, run, person.name).id}

    return routes
