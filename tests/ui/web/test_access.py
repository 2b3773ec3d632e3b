"""The role matrix: every route and Gradio endpoint for every role, at the route and again at the action."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import gradio as gr
import pytest
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Mount

from dataengine.errors import AccessDenied
from dataengine.records import ROLES
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, sign_in
from ui import server
from ui.desks import DESKS
from ui.server import answer_errors
from ui.web.access import PUBLIC, require
from ui.web.desk import Desk, access_table
from ui.web.sessions import Person, Requires

EVERYONE = set(ROLES)
ACCESS = access_table(DESKS)
MATRIX = {
    "/": EVERYONE,
    "/logout": EVERYONE,
    "/api/logout": EVERYONE,
    "/api/session": EVERYONE,
    "/classes.css": EVERYONE,
    "/annotate": {"annotator", "curator", "admin"},
    "/api/annotate": {"annotator", "curator", "admin"},
    "/api/annotate/gold": {"curator", "admin"},
    "/api/annotate/merged": {"curator", "admin"},
    "/api/images": {"annotator", "curator", "engineer", "admin"},
    "/import": {"curator", "engineer", "admin"},
    "/api/import": {"curator", "engineer", "admin"},
    "/curate": {"curator", "engineer", "admin"},
    "/api/curate": {"curator", "engineer", "admin"},
    "/api/curate/people": {"curator", "admin"},
    "/api/curate/pilots": {"curator", "admin"},
    "/train": {"engineer", "admin"},
    "/api/train": {"engineer", "admin"},
    "/treat": {"engineer", "admin"},
    "/api/treat": {"engineer", "admin"},
    "/api/queue": {"admin"},
    "/api/models": {"engineer", "admin"},
    "/api/jobs": {"curator", "engineer", "admin"},
    "/study": {"rater", "engineer", "admin"},
    "/api/study": {"rater", "engineer", "admin"},
    "/api/studies": {"engineer", "admin"},
    "/api/invitations": {"admin"},
    "/api/rounds": {"curator", "engineer", "admin"},
    "/rounds": {"curator", "engineer", "admin"},
    "/gradio": {"annotator", "curator", "engineer", "admin"},
    "/admin": {"admin"},
    "/api/admin": {"admin"},
    "/account": EVERYONE,
    "/api/account": EVERYONE,
}
OPEN = {
    *("/healthz", "/readyz", "/metrics", "/static", "/favicon.ico", "/login", "/api/login", "/join"),
    *("/label-studio", "/api/docs", "/api/openapi.json"),
}
OWN_SECRET = ("/login", "/label-studio/", "/join")
"""Open to everybody who knows a password or a secret, which the route itself asks for."""
JUDGING = {
    ("POST", "/api/curate/reviews"),
    ("POST", "/api/curate/open"),
    ("POST", "/api/curate/selected/erasure"),
    ("POST", "/api/curate/selected/erase"),
    ("POST", "/api/curate/benchmarks/{benchmark_id}/settle"),
    ("POST", "/api/curate/benchmarks/{benchmark_id}/settle-agreed"),
}
"""What engineers, who read the curation desk, may not do there: judge labels, erase images."""
GRADIO_DESKS = sorted(ACCESS.gradio)
SIGNING_OUT = {"/logout", "/api/logout"}

Full = tuple[FastAPI, Workspace]


def test_the_table_is_what_was_agreed() -> None:
    assert {path: set(roles) for path, roles in ACCESS.paths.items() if roles != PUBLIC} == MATRIX
    assert {path for path, roles in ACCESS.paths.items() if roles == PUBLIC} == OPEN


def test_no_two_desks_state_the_same_path(tmp_path: Path) -> None:
    desk = Desk(folder=tmp_path / "second", path="/curate", roles=PUBLIC)
    with pytest.raises(ValueError, match="second declares /curate"):
        access_table([*DESKS, desk])


def test_every_folder_with_a_desk_has_its_line() -> None:
    ui = Path(server.__file__).parent
    folders = {path.parent for path in ui.glob("*/desk.py")} - {ui / "web"}
    assert folders == {desk.folder for desk in DESKS} and len(DESKS) == len(folders)


@pytest.fixture(scope="module")
def clients(full: Full) -> dict[str, TestClient]:
    """Everybody's client, and nobody's."""
    app, _ = full
    made = {role: TestClient(app, base_url=ORIGIN, follow_redirects=False) for role in ("nobody", *ROLES)}
    for role in ROLES:
        sign_in(made[role], role)
    return made


def routes(found: list[BaseRoute], before: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of every route of ours, and the root of every mounted app."""
    for route in found:
        if isinstance(route, APIRoute):
            yield from ((method, before + route.path) for method in route.methods)
        elif isinstance(route, Mount):
            yield "GET", route.path + "/"
        elif hasattr(route, "original_router"):
            yield from routes(route.original_router.routes, before + route.include_context.prefix)
        else:
            raise AssertionError(f"a route of an unknown kind: {route}")


def test_every_route_is_open_to_its_roles_alone(full: Full, clients: dict[str, TestClient]) -> None:
    app, workspace = full
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.ids(limit=1)[0]
    checked = 0
    for method, template in routes(app.routes):
        path = template.replace("{image_id}", image)
        prefixes = [p for p in ACCESS.paths if path == p or (p != "/" and path.startswith(p + "/"))]
        assert prefixes, f"{path} is in no table of who may open it"
        prefix = max(prefixes, key=len)
        for role, client in clients.items():
            if path in SIGNING_OUT and role != "nobody":
                continue
            status = client.request(method, path, json={} if method == "POST" else None).status_code
            if prefix in OPEN:
                expected = status != 403 or path.startswith(OWN_SECRET)
            elif role == "nobody":
                expected = status == 401
            else:
                allowed = MATRIX[prefix] - ({"engineer"} if (method, template) in JUDGING else set())
                expected = (status == 403) == (role not in allowed) and status != 401
            assert expected, f"{role}: {method} {path} answered {status}"
            checked += 1
    assert checked > 90


def endpoints(client: TestClient, desk: str) -> list[str]:
    """The names of a desk's Gradio endpoints."""
    return sorted(client.get(f"{desk}/gradio_api/info").json()["named_endpoints"])


def test_every_gradio_endpoint_is_open_to_its_roles_alone(clients: dict[str, TestClient]) -> None:
    checked = 0
    for desk in GRADIO_DESKS:
        names = endpoints(clients["admin"], desk)
        assert names, f"{desk} has no endpoints"
        for name in names:
            for role, client in clients.items():
                answer = client.post(f"{desk}/gradio_api/call{name}", json={"data": []})
                # 503: the desk's queue is full.
                allowed = {200, 422, 500, 503} if role in MATRIX[desk] else {403}
                expected = {401} if role == "nobody" else allowed
                assert answer.status_code in expected, f"{role}: {desk}{name} answered {answer.status_code}"
                checked += 1
    assert checked > 60


@pytest.mark.parametrize("desk", GRADIO_DESKS)
@pytest.mark.parametrize(
    "inner",
    [
        "gradio_api/upload",
        "gradio_api/proxy=https://x",
        "monitoring",
        "gradio_api/vibe-edit",
        "runs",
        "dev/reload",
    ],
)
def test_parts_of_gradio_that_no_desk_uses_are_shut(
    clients: dict[str, TestClient], desk: str, inner: str
) -> None:
    if inner == "gradio_api/upload" and desk in ACCESS.uploads:
        return
    for method in ("GET", "POST"):
        assert clients["admin"].request(method, f"{desk}/{inner}").status_code == 404


def handlers(full: Full) -> Iterator[tuple[str, str, object]]:
    """Desk, name and function behind every Gradio event."""
    app, _ = full
    for route in app.routes:
        if isinstance(route, Mount) and route.path in GRADIO_DESKS:
            for event in route.app.get_blocks().fns.values():  # type: ignore[attr-defined]
                yield route.path, event.fn.__name__, event.fn


ONLY_MOVE_BETWEEN_PAGES = {"further", "nearer"}


def test_every_handler_checks_the_role_itself(full: Full) -> None:
    checked = 0
    for desk, name, handler in handlers(full):
        if name in ONLY_MOVE_BETWEEN_PAGES:
            continue
        for role in (*sorted(EVERYONE - MATRIX[desk]), None):
            person = role and Person(name=role, roles=(role,), csrf="", token="")
            scope = {"type": "http", "headers": [], "state": {"person": person} if person else {}}
            with pytest.raises(gr.Error, match=r"needs the .*role; you have"):
                handler(gr.Request(request=Request(scope)))  # type: ignore[operator]
            checked += 1
    assert checked > 60


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/admins",
        "/rounds/../admin",
        "//admin",
        "/ADMIN",
        "/api",
        "/api/imagesx",
        "/static2",
        "/admin//gradio_api/upload",
    ],
)
def test_what_is_not_listed_is_shut(path: str) -> None:
    listed = ACCESS.allowed_roles(path)
    assert not listed or (path.startswith("/rounds/..") and listed == ACCESS.paths["/rounds"])


def test_an_unknown_page_is_404_for_people_and_401_for_strangers(clients: dict[str, TestClient]) -> None:
    assert clients["admin"].get("/docs").status_code == 404
    assert clients["admin"].get("/openapi.json").status_code == 404
    assert clients["nobody"].get("/docs").status_code == 401


def test_require_names_what_is_missing() -> None:
    require(["rater", "curator"], ACCESS.paths["/curate"], "curating")
    with pytest.raises(
        AccessDenied, match="curating needs the curator, engineer or admin role; you have rater"
    ):
        require(["rater"], ACCESS.paths["/curate"], "curating")


@pytest.mark.parametrize("wanted", [{"curator"}, {"rater", "admin"}])
def test_the_role_dependency_refuses_others_in_one_sentence(wanted: set[str]) -> None:
    app = FastAPI()

    @app.get("/who")
    def who(request: Request, person: Annotated[Person, Requires(wanted, "judging")]) -> str:
        return person.name

    @app.middleware("http")
    async def as_rater(request: Request, go_on: Any) -> Any:
        request.state.person = Person(name="ann", roles=("rater",), csrf="", token="")
        return await go_on(request)

    answer_errors(app)
    answer = TestClient(app).get("/who")
    if "rater" in wanted:
        assert (answer.status_code, answer.json()) == (200, "ann")
    else:
        refusal = "judging needs the curator role; you have rater. Ask an admin for access."
        assert (answer.status_code, answer.json()) == (403, {"error": refusal})
