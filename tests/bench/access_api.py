"""Section `api` of `make bench-access`: the whole API asked by every role, and who may ask for what.

Requests are made by schemathesis from the API's own description, right ones and wrong ones, each with the
token of some role. Who may do what is declared in `tests.ui.web.test_access`, by hand. Controls in the same
run: a planted route that fails has to count as a failure, and an answer that the table forbids as a breach.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from dataengine.records import ROLES
from pipelines.services.admin import tokens
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench.harness import Figure, figure, full, share, table
from tests.bench.postgres import on_postgres
from tests.ui.conftest import ORIGIN, add_people, furnish, sign_in
from tests.ui.web.test_access import JUDGING, MATRIX, OPEN, OWN_SECRET, SIGNING_OUT, routes
from ui.config import ServerConfig
from ui.server import create_app

SEED = int(os.environ.get("SEED", "0"))
REQUESTS, FEW = 10_500, 240
"""Requests of a run and of a quick one; some cannot be put on the wire."""
IN_BROWSER = ("/account", "/api/account", "/logout", "/api/logout")
"""What takes no API token, whoever has it."""
ABSENT = {("/api/v1/annotate/assist", 503)}
"""The inference service does not run here."""
PLANTED = "/api/rounds/planted"
NOBODY = "nobody"


class Asked(NamedTuple):
    """One request: who asked for which route, and the answer's status."""

    role: str
    method: str
    path: str
    status: int


def figures(quick: bool) -> list[Figure]:
    """All figures of the section. Raises `RuntimeError` where a control fails."""
    count = FEW if quick else REQUESTS
    asked, matrix = measured(count, nullcontext)
    if full():
        more, _ = measured(count, on_postgres)
        asked += more
    control(asked)
    failures, breaches = failed(asked), breached(asked)
    for one in [*failures[:10], *breaches[:10]]:
        print(f"  {one}")
    wrong = [one for one, right in matrix if not right]
    for each in wrong[:10]:
        print(f"  not as declared: {each}")
    statuses = Counter(one.status // 100 for one in asked)
    note = ", ".join(f"{count} × {status}xx" for status, count in sorted(statuses.items()))
    served = {(one.method, one.path) for one in asked if one.status < 300}
    return [
        figure("fuzzed", len(asked), unit="requests", n=len(asked), note=f"{note}; seed {SEED}"),
        figure("fuzzed_5xx", len(failures), unit="requests", n=len(asked)),
        figure(
            "fuzzed_breaches",
            len(breaches),
            unit="requests",
            n=len(asked),
            note=f"{len(served)} operations answered 2xx to somebody",
        ),
        share("role_matrix", len(matrix) - len(wrong), len(matrix), "routes × roles × cookie, token, none"),
    ]


def measured(
    count: int, database: Callable[[], Any]
) -> tuple[list[Asked], list[tuple[tuple[str, str, str, str, int], bool]]]:
    """The fuzzed requests and the role matrix on a fresh workspace."""
    with database(), served() as (app, workspace):
        matrix = list(role_matrix(app, workspace))
        return fuzzed(app, workspace, count), matrix


@contextmanager
def served() -> Iterator[tuple[FastAPI, Workspace]]:
    """The app over a furnished workspace with one person of every role, and a route that fails."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = create_workspace(Path(folder) / "workspace")
        furnish(workspace)
        add_people(workspace)
        app = create_app(workspace, ServerConfig(desks=False))

        @app.get(PLANTED, include_in_schema=False)
        def planted() -> None:
            raise RuntimeError("planted")

        yield app, workspace
        workspace.close()


def bearing(workspace: Workspace, role: str) -> dict[str, str]:
    """The header of a new token of that role's person."""
    name = f"token {len(tokens.list_tokens(workspace))}"
    text, _ = tokens.create_token(workspace, role, name, [role], 1, "bench")
    return {"Authorization": f"Bearer {text}"}


def declared(method: str, template: str) -> set[str]:
    """Who may ask for a route, by the table written by hand; everybody and nobody where it is open."""
    matches = [
        one for one in {*MATRIX, *OPEN} if template == one or template.startswith(f"{one.rstrip('/')}/")
    ]
    prefix = max((one for one in matches if one != "/" or template == "/"), key=len)
    if prefix in OPEN:
        return {*ROLES, NOBODY}
    return MATRIX[prefix] - ({"engineer"} if (method, template) in JUDGING else set())


def by_token(method: str, template: str) -> set[str]:
    """Whose token may ask for a route."""
    in_browser = any(template == one or template.startswith(f"{one}/") for one in IN_BROWSER)
    return set() if in_browser else declared(method, template)


def role_matrix(app: FastAPI, workspace: Workspace) -> Iterator[tuple[tuple[str, str, str, str, int], bool]]:
    """Each route asked by each role with a cookie and with a token, and by nobody: as declared?"""
    headers = {role: bearing(workspace, role) for role in ROLES}
    client = {
        role: TestClient(app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False)
        for role in (*ROLES, NOBODY)
    }
    for role in ROLES:
        sign_in(client[role], role)
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.ids(limit=1)[0]
    for method, template in routes(app.routes):
        path = template.replace("{image_id}", image)
        body = {} if method == "POST" else None
        for role in (*ROLES, NOBODY):
            for way in ("none",) if role == NOBODY else ("cookie", "token"):
                if way == "cookie" and path in SIGNING_OUT:
                    continue
                asking = client[NOBODY if way == "token" else role]
                sent = headers[role] if way == "token" else {}
                status = asking.request(method, path, json=body, headers=sent).status_code
                allowed = (by_token if way == "token" else declared)(method, template)
                yield (role, way, method, path, status), as_declared(role, allowed, template, status)


def as_declared(role: str, allowed: set[str], template: str, status: int) -> bool:
    """Whether an answer's status is what the table says."""
    if NOBODY in allowed:
        return status != 403 or template.startswith(OWN_SECRET)
    if role == NOBODY:
        return status == 401
    return status != 401 and (status == 403) == (role not in allowed)


def fuzzed(app: FastAPI, workspace: Workspace, count: int) -> list[Asked]:
    """About `count` requests made from the description, with the tokens of all roles in turn."""
    import schemathesis

    client = TestClient(app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False)
    headers = [(role, bearing(workspace, role)) for role in ROLES] + [(NOBODY, {})]
    description = client.get("/api/v1/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    cases = st.one_of(
        [
            found.ok().as_strategy(generation_mode=mode)
            for found in schema.get_all_operations()
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        ]
    )
    asked = [
        one
        for role, sent in headers
        for one in asked_by(client, cases, role, sent, -(-count // len(headers)))
    ]
    planted = client.get(PLANTED, headers=dict(headers)["engineer"]).status_code
    asked.append(Asked("engineer", "GET", PLANTED, planted))
    return asked


def asked_by(
    client: TestClient, cases: st.SearchStrategy[Any], role: str, sent: dict[str, str], count: int
) -> list[Asked]:
    """What one role asked for, and the answers' statuses."""
    asked: list[Asked] = []

    @seed(SEED)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case: Any) -> None:
        request = case.as_transport_kwargs(base_url=ORIGIN)
        request.pop("cookies", None)
        kept = {name: value for name, value in request.pop("headers", {}).items() if name.isascii()}
        kept.pop("Authorization", None)
        try:
            answer = client.request(headers={**kept, **sent}, **request)
        except (UnicodeError, ValueError, TypeError):
            return  # no client can put that on the wire
        asked.append(Asked(role, request["method"].upper(), case.operation.path, answer.status_code))

    ask()
    return asked


def failed(asked: list[Asked]) -> list[Asked]:
    """Requests that broke the server, but for the planted one."""
    return [one for one in broken(asked) if one.path != PLANTED]


def broken(asked: list[Asked]) -> list[Asked]:
    return [one for one in asked if one.status >= 500 and (one.path, one.status) not in ABSENT]


def breached(asked: list[Asked], table: Callable[[str, str], set[str]] = by_token) -> list[Asked]:
    """Requests that succeeded although the table says no."""
    return [
        one
        for one in asked
        if one.status < 300
        and one.path.startswith("/api/")
        and one.role not in table(one.method, one.path.replace("/api/v1/", "/api/", 1))
    ]


def control(asked: list[Asked]) -> None:
    """Raise `RuntimeError` unless the planted failure is seen, and breaches of a table that forbids all."""
    if not [one for one in broken(asked) if one.path == PLANTED]:
        raise RuntimeError("the planted route's failure was not seen, so the figures mean nothing")
    successes = [one for one in asked if one.status < 300]
    if not successes or len(breached(asked, lambda method, path: set())) != len(successes):
        raise RuntimeError("answers that a table forbids were not seen, so the figures mean nothing")


if __name__ == "__main__":
    from tests.bench.harness import quick

    print(table(figures(quick())))
