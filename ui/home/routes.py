"""The home page: what waits for this person, the workspace in figures, a card for every desk they may open.

An empty workspace leads to its first images; an invited guest sees nothing but the study.
"""

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from pipelines.services.queue import workers_alive
from pipelines.services.todo import is_guest, tasks_of
from storage.queries.overview import Overview, overview
from ui.web.access import IMAGE_VIEWERS, may, roles
from ui.web.desk import Site, listed
from ui.web.pages import render
from ui.web.sessions import SignedIn

MANAGERS = roles("curator", "engineer")
LEAD = "Find where generated images are broken, and train the model that generated them to stop."
NO_WORKER = "No worker is running, so jobs do not start. Start one with “clinic worker”."


def home_routes(site: Site) -> APIRouter:
    """The page at /."""
    routes, workspace = APIRouter(), site.workspace

    @routes.get("/")
    def home(person: SignedIn, token: str = "") -> Response:
        if token:
            return RedirectResponse("/", 303)
        if is_guest(workspace, person.name):
            return RedirectResponse("/study", 303)
        manages = may(person.roles, MANAGERS)
        with workspace.catalog(read_only=True) as catalog:
            seen = overview(catalog)
            champion = catalog.detectors.champion()
        return render(
            "home/page.html",
            greeting="Artifact Clinic" if person.local else f"Hello, {person.name}",
            lead=LEAD if may(person.roles, IMAGE_VIEWERS) else "",
            problem=NO_WORKER if manages and not workers_alive(workspace) else "",
            empty=manages and not seen.images,
            tasks=tasks_of(workspace, person.name, person.roles),
            figures=figures(seen, champion.name if champion else None) if manages and seen.images else [],
            areas=[desk for desk in listed(site.desks) if may(person.roles, desk.roles)],
        )

    return routes


def figures(seen: Overview, champion: str | None) -> list[tuple[str, str]]:
    """The workspace's counts as (value, caption)."""
    images, rounds = sum(seen.images.values()), sum(seen.rounds.values())
    return [
        (f"{images:,}", plural(images, "image")),
        (
            f"{seen.labelled:,}",
            "labelled by people" + f", {seen.synthetic:,} by the demo" * bool(seen.synthetic),
        ),
        (f"{seen.waiting:,}", "waiting for labels"),
        (
            f"{seen.detectors:,}",
            plural(seen.detectors, "detector") + f", champion {champion}" * bool(champion),
        ),
        (f"{seen.treatments:,}", plural(seen.treatments, "treatment")),
        (f"{rounds:,}", plural(rounds, "round")),
    ]


def plural(count: int, noun: str) -> str:
    """The noun as it stands after this number."""
    return noun if count == 1 else f"{noun}s"
