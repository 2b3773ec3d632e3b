"""The home page: the workspace in figures, and a card for every desk this person may open."""

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from pipelines.services.queue import workers_alive
from storage.queries.overview import Overview, overview
from ui.web.access import may
from ui.web.desk import Site, listed
from ui.web.pages import render
from ui.web.sessions import SignedIn

NO_WORKER = "No worker is running, so jobs do not start. Start one with “clinic worker”."


def home_routes(site: Site) -> APIRouter:
    """The page at /."""
    routes, workspace = APIRouter(), site.workspace

    @routes.get("/")
    def home(person: SignedIn, token: str = "") -> Response:
        if token:
            return RedirectResponse("/", 303)
        with workspace.catalog(read_only=True) as catalog:
            seen = overview(catalog)
            champion = catalog.detectors.champion()
        greeting = "Artifact Clinic" if person.local else f"Hello, {person.name}"
        return render(
            "home/page.html",
            greeting=greeting,
            problem="" if workers_alive(workspace) else NO_WORKER,
            figures=figures(seen, champion.name if champion else None),
            areas=[desk for desk in listed(site.desks) if may(person.roles, desk.roles)],
        )

    return routes


def figures(seen: Overview, champion: str | None) -> list[tuple[str, str]]:
    """The workspace's counts as (value, caption)."""
    return [
        (f"{sum(seen.images.values()):,}", "images"),
        (f"{seen.labelled:,}", "labelled by people"),
        (f"{seen.waiting:,}", "waiting for labels"),
        (f"{seen.detectors:,}", f"detectors, champion {champion}" if champion else "detectors"),
        (f"{seen.treatments:,}", "treatments"),
        (f"{sum(seen.rounds.values()):,}", "rounds"),
    ]
