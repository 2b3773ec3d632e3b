"""The declaration of a desk. A desk is a folder with a `desk.py`, and a line in `ui.desks.DESKS`.

DESK = Desk(
    folder=Path(__file__).parent,
    path="/curate",
    title="Curate",
    caption="Images, artifact maps and labels, by category and confidence.",
    roles=READERS,
    api={"/api/curate": READERS, "/api/curate/people": CURATORS},
    routers=lambda site: [curate_routes(site.workspace)],
)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import APIRouter, FastAPI, Response

from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.web.access import SHARED_PATHS, AccessTable
from ui.web.pages import render
from ui.web.policy import PAGES, ContentPolicy
from ui.web.sessions import SessionManager


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What the routers of every desk are built with."""

    workspace: Workspace
    settings: ServerConfig
    session_manager: SessionManager
    desks: "tuple[Desk, ...]"


def no_routers(site: Site) -> Sequence[APIRouter]:
    """For desks without routes of their own."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One section of the app.

    With a `title` it has a card on the home page and a link in the header. Its `page.html` is served at
    `path`, and the files of its `static` folder under /static/NAME. A desk with `mount_gradio` is a Gradio
    app at `path`, built only when the server mounts it.
    """

    folder: Path
    path: str = ""
    title: str = ""
    caption: str = ""
    roles: frozenset[str] = frozenset()
    """Who may open `path`."""
    api: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Its further path prefixes, each with the roles that may ask for it."""
    large_bodies: frozenset[str] = frozenset()
    """Paths whose requests may be as large as the server's `max_body_bytes`; others hold 1 MiB."""
    routers: Callable[[Site], Iterable[APIRouter]] = no_routers
    mount_gradio: Callable[[FastAPI, Site], None] | None = None
    takes_files: bool = False
    """Whether people may upload files to its Gradio app."""
    policy: ContentPolicy = PAGES
    """The content policy of everything below `path`."""

    @property
    def name(self) -> str:
        """Its folder's name, used in the paths of its templates and static files."""
        return self.folder.name

    @property
    def static(self) -> Path | None:
        """The folder of its static files, if it has one."""
        folder = self.folder / "static"
        return folder if folder.is_dir() else None


def access_table(desks: Iterable[Desk]) -> AccessTable:
    """Every path of these desks, and the shared ones. Raises `ValueError` for a path declared twice."""
    desks = tuple(desks)
    paths, gradio = dict(SHARED_PATHS), set()
    for desk in desks:
        stated = {**({desk.path: desk.roles} if desk.path else {}), **desk.api}
        if twice := paths.keys() & stated.keys():
            raise ValueError(f"{desk.name} declares {', '.join(sorted(twice))}, which is taken")
        paths |= stated
        if desk.mount_gradio is not None:
            gradio.add(desk.path)
    large = frozenset().union(*(desk.large_bodies for desk in desks))
    uploads = frozenset(desk.path for desk in desks if desk.takes_files)
    policies = {desk.path: desk.policy for desk in desks if desk.path and desk.policy is not PAGES}
    return AccessTable(paths, frozenset(gradio), large, uploads, policies)


def listed(desks: Iterable[Desk]) -> list[Desk]:
    """The desks that have a card and a link."""
    return [desk for desk in desks if desk.title]


def page_route(desk: Desk) -> APIRouter:
    """The route of a desk's page; everything in the page is fetched by its scripts."""
    routes = APIRouter()

    @routes.get(desk.path)
    def page() -> Response:
        return render(f"{desk.name}/page.html", desk=desk)

    return routes
