"""API tokens at the server: what a program may do with one, and every way in which one is refused."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from dataengine.records import ApiToken
from pipelines.services.admin import tokens, users
from pipelines.services.admin.audit import find_events
from pipelines.services.operation.logs import JsonFormatter, without_secrets
from storage import tables
from storage.queries.audit import AuditFilter
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, sign_in
from ui.web import bearer

Clients = Callable[..., TestClient]
HTML = {"Accept": "text/html"}
SELECTED = "/api/curate/views"


def token_of(workspace: Workspace, person: str, *roles: str, days: tokens.Days = 90) -> str:
    return tokens.create_token(workspace, person, "a program", roles or (person,), days, "test")[0]


def bearing(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def only(workspace: Workspace) -> ApiToken:
    (token,) = tokens.list_tokens(workspace)
    return token


def change(workspace: Workspace, **values: object) -> None:
    """Change the only token's row, as time does."""
    with workspace.catalog() as catalog:
        catalog.connection.execute(update(tables.api_tokens).values(values))
        catalog.commit()


@pytest.fixture
def elsewhere(templates: Path, tmp_path: Path) -> Iterator[Workspace]:
    """Another clinic."""
    from storage.accounts import create_user
    from storage.opening import create_workspace

    workspace = create_workspace(tmp_path / "elsewhere")
    with workspace.catalog() as catalog:
        create_user(catalog, "curator", "a long password", ["curator"], "test")
        catalog.commit()
    yield workspace
    workspace.close()


def test_a_program_reads_and_changes_without_cookie_or_csrf_token(
    client_of: Clients, workspace: Workspace
) -> None:
    client = client_of()
    headers = bearing(token_of(workspace, "curator"))
    who = client.get("/api/session", headers=headers).json()
    assert (who["name"], who["roles"], who["csrf"]) == ("curator", ["curator"], "")
    view = {"name": "hands", "query": {"search": "hand"}}
    assert client.post(SELECTED, json=view, headers=headers).status_code == 200
    assert "set-cookie" not in client.post(SELECTED, json=view, headers=headers).headers
    assert client.post(SELECTED, json=view).status_code == 401


def test_a_cookie_alone_still_needs_the_csrf_token(client_of: Clients) -> None:
    client = client_of("curator")
    del client.headers["X-Clinic-CSRF"]
    assert client.post(SELECTED, json={"name": "hands", "query": {}}).status_code == 403


def test_the_header_wins_over_a_cookie(client_of: Clients, workspace: Workspace) -> None:
    admin = client_of("admin")
    assert admin.get("/api/session", headers=bearing(token_of(workspace, "rater"))).json()["name"] == "rater"
    assert admin.get("/api/session", headers=bearing("clinic_nonsense")).status_code == 401
    assert admin.get("/api/session", headers={"Authorization": "Basic YTpi"}).json()["name"] == "admin"


def test_a_token_has_its_own_roles_only(client_of: Clients, workspace: Workspace) -> None:
    headers = bearing(token_of(workspace, "admin", "annotator"))
    assert client_of().get("/api/annotate/answers", headers=headers).status_code == 200
    refused = client_of().get("/api/curate/images", headers=headers)
    assert refused.status_code == 403
    assert refused.json()["error"] == (
        "this needs an API token with the curator, engineer or admin role, and this one has annotator"
    )


def test_a_token_loses_what_its_owner_loses(client_of: Clients, workspace: Workspace) -> None:
    headers = bearing(token_of(workspace, "curator"))
    users.set_roles(workspace, "curator", ["annotator"], "test")
    lost = client_of().get("/api/curate/images", headers=headers)
    assert lost.status_code == 403 and "has lost all its roles" in lost.json()["error"]
    users.set_roles(workspace, "curator", ["curator"], "test")
    assert client_of().get("/api/curate/images", headers=headers).status_code == 200
    users.set_active(workspace, "curator", False, "test")
    closed = client_of().get("/api/curate/images", headers=headers)
    assert closed.status_code == 401 and "deactivated" in closed.json()["error"]
    users.set_active(workspace, "curator", True, "test")
    users.remove_user(workspace, "curator", "test")
    gone = client_of().get("/api/curate/images", headers=headers)
    assert gone.status_code == 401 and "is unknown" in gone.json()["error"]


def test_a_token_goes_along_when_its_owner_is_renamed(client_of: Clients, workspace: Workspace) -> None:
    headers = bearing(token_of(workspace, "curator"))
    users.rename_user(workspace, "curator", "cora", "test")
    assert client_of().get("/api/session", headers=headers).json()["name"] == "cora"


def refused(client: TestClient, text: str) -> str:
    """The sentence with which a token is refused, on the API and on pages."""
    answer = client.get("/api/session", headers=bearing(text))
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert client.get("/curate", headers={**bearing(text), **HTML}).status_code == 401
    assert client.post(SELECTED, headers=bearing(text), json={}).json()["error"] == answer.json()["error"]
    return str(answer.json()["error"])


def test_every_bad_token_is_refused_with_its_reason(
    client_of: Clients, workspace: Workspace, elsewhere: Workspace
) -> None:
    client, text = client_of(), token_of(workspace, "curator")
    assert client.get("/api/session", headers=bearing(text)).status_code == 200
    for malformed in ("", "abc", text[:-1], text + "x", text.upper(), "a.b.c", f"{text} {text}"):
        assert "is malformed" in refused(client, malformed)
    assert "is unknown" in refused(client, text[:-1] + ("A" if text[-1] != "A" else "B"))
    assert "is another clinic's" in refused(client, token_of(elsewhere, "curator"))
    expired = only(workspace)
    change(workspace, expires=expired.created - 1)
    assert "expired on 20" in refused(client, text)
    change(workspace, expires=None)
    assert client.get("/api/session", headers=bearing(text)).status_code == 200
    tokens.revoke_token(workspace, only(workspace).id, "test")
    assert "was revoked on 20" in refused(client, text)


def test_nobody_is_told_to_send_one(client_of: Clients) -> None:
    answer = client_of().get("/api/session")
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "address",
    ["/api/session?token={}", "/api/session?access_token=x", "/curate?a=b&key={}", "/login?token={}",
     "/healthz?x={}", "/api/curate/images?search=%20{}", "/api/session?TOKEN=1"],
)  # fmt: skip
def test_a_token_in_the_address_is_refused_and_not_logged(
    client_of: Clients, workspace: Workspace, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    text = token_of(workspace, "admin")
    with caplog.at_level(logging.INFO, "clinic.web"):
        answer = client_of("admin").get(address.format(text), headers=bearing(text))
    assert answer.status_code == 400 and "ends in logs" in answer.json()["error"]
    assert text not in "".join(JsonFormatter().format(record) for record in caplog.records)


def test_other_queries_are_no_tokens(client_of: Clients) -> None:
    client = client_of("curator")
    assert client.get("/api/curate/images?search=clinic_abc token").status_code == 200
    assert client.get("/login?token=start").status_code != 400


def test_the_log_takes_tokens_out(workspace: Workspace) -> None:
    text = token_of(workspace, "admin")
    for line in (f"sent {text}", f"Authorization: Bearer {text}", f"/x?y={text}&z"):
        assert text[-43:] not in without_secrets(line) and "[removed]" in without_secrets(line)


def test_the_log_names_person_and_token(
    client_of: Clients, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "clinic.web"):
        client_of().get("/api/session", headers=bearing(token_of(workspace, "rater")))
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert (line["person"], line["program"]) == ("rater", "a program")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/account"), ("GET", "/account"), ("POST", "/api/account/password"),
        ("POST", "/api/account/tokens"), ("POST", "/api/account/tokens/revoke"),
        ("POST", "/api/account/sessions/end"), ("POST", "/api/logout"), ("POST", "/logout"),
    ],
)  # fmt: skip
def test_a_stolen_token_cannot_outlive_itself(
    client_of: Clients, workspace: Workspace, method: str, path: str
) -> None:
    answer = client_of().request(method, path, headers=bearing(token_of(workspace, "admin")), json={})
    assert answer.status_code == 403 and "managed in a browser" in answer.json()["error"]


def test_who_must_choose_a_password_does_so_first(client_of: Clients, workspace: Workspace) -> None:
    headers = bearing(token_of(workspace, "curator"))
    users.set_password(workspace, "curator", "a new pass phrase", "admin", must_change=True)
    answer = client_of().get("/api/curate/images", headers=headers)
    assert answer.status_code == 403 and "choose a password of your own" in answer.json()["error"]


def test_the_last_use_is_noted_once_a_minute(
    client_of: Clients, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, client = bearing(token_of(workspace, "curator")), client_of()
    written: list[str] = []
    note_use = tokens.note_use
    monkeypatch.setattr(tokens, "note_use", lambda w, id: (written.append(id), note_use(w, id)))
    assert only(workspace).used is None
    for _ in range(3):
        assert client.get("/api/session", headers=headers).status_code == 200
    used = only(workspace).used
    assert len(written) == 1 and used is not None
    monkeypatch.setattr(bearer, "SEEN_SECONDS", 0.0)
    client.get("/api/session", headers=headers)
    assert len(written) == 2 and (only(workspace).used or 0) >= used


def test_the_audit_names_the_token_that_did_it(client_of: Clients, workspace: Workspace) -> None:
    headers, client = bearing(token_of(workspace, "curator")), client_of()
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.ids(limit=1)[0]
    body = {"chosen": {"ids": [image]}, "add": ["odd"]}
    answer = client.post("/api/curate/selected/tag", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    (row,), _ = find_events(workspace, AuditFilter(topic="images"))
    assert row.who == "curator" and row.details.endswith("by API token: a program")
    sign_in(client, "curator")
    client.post("/api/curate/selected/tag", json=body | {"add": ["even"]})
    newest = find_events(workspace, AuditFilter(topic="images"))[0][0]
    assert "API token" not in newest.details


def test_only_a_hash_is_stored(workspace: Workspace) -> None:
    text = token_of(workspace, "curator")
    assert only(workspace).token_hash == hashlib.sha256(text.encode()).hexdigest()
    assert text not in repr(only(workspace)) and only(workspace).token_hash not in repr(only(workspace))


def test_a_gradio_desk_takes_a_token_of_its_role(full: tuple[object, Workspace]) -> None:
    app, workspace = full
    client = TestClient(app, base_url=ORIGIN)  # type: ignore[arg-type]
    path = "/admin/gradio_api/call/overview"
    for role, status in (("admin", 200), ("curator", 403)):
        headers = bearing(token_of(workspace, role))
        assert client.post(path, json={"data": []}, headers=headers).status_code == status
