"""The home page: the workspace in figures, and a card for every place this person may go."""

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from pipelines.services.queue import workers_alive
from storage.queries.overview import Overview, overview
from storage.workspace import Workspace
from ui.web.access import AREAS, may
from ui.web.pages import annotate_page, curate_page, home_page, rounds_page, runs_page, study_page
from ui.web.sessions import person_of

NO_WORKER = "No worker is running, so jobs wait. Start one with “clinic worker”."


def home_routes(workspace: Workspace) -> APIRouter:
    """The pages /, /annotate, /curate, /train, /treat, /study and /rounds."""
    routes = APIRouter()

    @routes.get("/")
    def home(request: Request, token: str = "") -> Response:
        if token:
            return RedirectResponse("/", 303)
        person = person_of(request)
        with workspace.catalog(read_only=True) as catalog:
            seen = overview(catalog)
            champion = catalog.detectors.champion()
        areas = [(area.path, area.title, area.caption) for area in AREAS if may(person.roles, area.roles)]
        greeting = "Artifact Clinic" if person.local else f"Hello, {person.name}"
        return home_page(
            greeting,
            "" if workers_alive(workspace) else NO_WORKER,
            figures(seen, champion.name if champion else None),
            areas,
        )

    @routes.get("/annotate")
    def annotate() -> Response:
        return annotate_page()

    @routes.get("/curate")
    def curate() -> Response:
        return curate_page()

    @routes.get("/train")
    def train() -> Response:
        return runs_page("Train", "train/train.js")

    @routes.get("/treat")
    def treat() -> Response:
        return runs_page("Treat", "treat/treat.js")

    @routes.get("/study")
    def study() -> Response:
        return study_page()

    @routes.get("/rounds")
    def rounds() -> Response:
        return rounds_page()

    return routes


def figures(seen: Overview, champion: str | None) -> list[tuple[str, str]]:
    """The workspace's counts as (value, caption)."""
    return [
        (f"{sum(seen.images.values()):,}", "images"),
        (f"{seen.labelled:,}", "labelled by people"),
        (f"{seen.waiting:,}", "waiting for a label"),
        (f"{seen.detectors:,}", f"detectors, champion {champion}" if champion else "detectors"),
        (f"{seen.treatments:,}", "treatments"),
        (f"{sum(seen.rounds.values()):,}", "rounds"),
    ]
