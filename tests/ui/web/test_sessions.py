"""Signing in and out: revocable sessions, signed cookies, tokens for forms and JSON, counted failures."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from http.cookiejar import CookieJar
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dataengine.errors import ConfigRefused
from pipelines.services.admin import users
from pipelines.services.admin.users import sign_in_link
from storage import passwords
from storage.accounts import create_user, set_active, set_roles
from storage.catalog import Catalog
from storage.workspace import Workspace
from tests.storage.test_passwords import former_hash
from tests.ui.conftest import ORIGIN, PASSWORD, sign_in
from ui.config import ServerConfig
from ui.server import background, create_app, serve
from ui.web.sessions import signing_key
from ui.web.throttle import WaitingLine

Clients = Callable[..., TestClient]
HTML = {"Accept": "text/html"}
COOKIE = "clinic_session_7860"
FORMER = "clinic_session"


@pytest.fixture
def open_client(bare: Workspace) -> Iterator[TestClient]:
    """A client of a workspace without accounts, whose start-up token is "start"."""
    app = create_app(bare, ServerConfig(desks=False, start_token="start"))
    yield TestClient(app, base_url=ORIGIN, follow_redirects=False)


def test_a_page_sends_strangers_to_sign_in_and_back(client_of: Clients) -> None:
    client = client_of()
    away = client.get("/annotate", headers=HTML)
    assert away.status_code == 303 and away.headers["location"] == "/login?next=%2Fannotate"
    page = client.get(away.headers["location"], headers=HTML)
    token = re.search(r'name="form_token" value="([^"]+)"', page.text)
    assert token
    form = {"name": "annotator", "password": PASSWORD, "form_token": token[1], "next": "/annotate"}
    back = client.post("/login", data=form)
    assert back.status_code == 303 and back.headers["location"] == "/annotate"
    assert client.get("/annotate").status_code == 200


@pytest.mark.parametrize("target", ["/account", "/curate?view=review#x", "/admin/", "/gradio/?step=2"])
def test_signing_in_leads_to_every_page(full: tuple[FastAPI, Workspace], target: str) -> None:
    """Also to those without a card, such as the own account."""
    client = TestClient(full[0], base_url=ORIGIN)
    page = client.get("/login", params={"next": target}, headers=HTML)
    assert re.search(r'name="next" value="([^"]+)"', page.text)[1] == target  # type: ignore[index]


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "//", "/api/login", "javascript:alert(1)", ""]
)
def test_signing_in_leads_only_to_our_own_pages(client_of: Clients, target: str) -> None:
    client = client_of()
    page = client.get("/login", params={"next": target})
    assert re.search(r'name="next" value="([^"]+)"', page.text)[1] == "/"  # type: ignore[index]


def test_a_form_without_its_token_is_refused(client_of: Clients) -> None:
    client = client_of()
    client.get("/login")
    for form_token in ("", "wrong"):
        form = {"name": "annotator", "password": PASSWORD, "form_token": form_token}
        assert client.post("/login", data=form).status_code == 403
    assert COOKIE not in client.cookies


def test_the_cookie_is_signed_and_out_of_scripts_reach(client_of: Clients) -> None:
    client = client_of()
    header = client.post("/api/login", json={"name": "annotator", "password": PASSWORD}).headers["set-cookie"]
    cookie = header.split(";")[0].split("=", 1)[1]
    assert "HttpOnly" in header and "SameSite=lax" in header
    for forged in (cookie[:-2] + "xx", cookie.split(".")[0], "", "a.b"):
        client.cookies.set(COOKIE, forged, domain="127.0.0.1")
        assert client.get("/api/session").status_code == 401


def test_a_stolen_cookie_is_worth_nothing_after_signing_out(client_of: Clients) -> None:
    client, thief = client_of("annotator"), client_of()
    thief.cookies = client.cookies
    stolen = {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
    assert thief.get("/api/session", headers=stolen).status_code == 200
    assert client.post("/api/logout").status_code == 200
    assert client_of().get("/api/session", headers=stolen).status_code == 401


def test_signing_out_by_form_needs_the_token(client_of: Clients) -> None:
    client = client_of("annotator")
    assert client.post("/logout", data={"csrf": "wrong"}).status_code == 403
    assert client.post("/logout", data={"csrf": client.headers["X-Clinic-CSRF"]}).status_code == 303
    assert client.get("/api/session").status_code == 401


def test_a_change_without_the_csrf_header_is_refused(client_of: Clients) -> None:
    client = client_of("annotator")
    del client.headers["X-Clinic-CSRF"]
    assert client.post("/api/annotate/release", json={"lease": "x"}).status_code == 403
    assert client.post("/api/logout").status_code == 403
    other = sign_in(client_of(), "curator").headers["X-Clinic-CSRF"]
    refused = client.post("/api/annotate/release", json={"lease": "x"}, headers={"X-Clinic-CSRF": other})
    assert refused.status_code == 403


def test_closing_an_account_and_changing_roles_act_at_once(client_of: Clients, workspace: Workspace) -> None:
    closed, changed = client_of("annotator"), client_of("curator")
    with workspace.catalog() as catalog:
        set_active(catalog, "annotator", False, "test")
        set_roles(catalog, "curator", ["rater"], "test")
        catalog.commit()
    assert closed.get("/api/session").status_code == 401
    assert changed.get("/api/annotate/next").status_code == 403


def wrong(client: TestClient, name: str) -> Any:
    return client.post("/api/login", json={"name": name, "password": "wrong"})


def right(client: TestClient, name: str = "annotator") -> Any:
    return client.post("/api/login", json={"name": name, "password": PASSWORD})


def test_guesses_stop_for_the_name_at_the_address_and_for_nobody_else(workspace: Workspace) -> None:
    app = create_app(workspace, ServerConfig(desks=False, login_failures=3))
    here, elsewhere = (
        TestClient(app, base_url=ORIGIN, client=(address, 5)) for address in ("192.0.2.1", "192.0.2.2")
    )
    answers = [wrong(here, name) for name in ["annotator"] * 3 + ["nobody"] * 3]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["error"] for answer in answers}) == 1
    for name in ("annotator", "nobody"):
        blocked = right(here, name)
        assert blocked.status_code == 401 and "this name from this address" in blocked.json()["error"]
    assert right(elsewhere).status_code == 200, "others keep nobody out"
    assert right(here, "curator").status_code == 200, "nor do colleagues at the same address"


def test_nobody_at_the_same_address_keeps_a_known_browser_out(workspace: Workspace) -> None:
    app = create_app(workspace, ServerConfig(desks=False, login_failures=2))
    own, other = (TestClient(app, base_url=ORIGIN, follow_redirects=False) for _ in range(2))
    enter_by_form(own, "annotator")
    for number in range(11):
        wrong(other, "annotator" if number < 3 else f"name-{number}")
    assert "too many" in right(other).json()["error"] and "too many" in right(other, "curator").text
    assert right(own).status_code == 200, "the browser is known"
    assert "too many" in right(own, "curator").text, "for its person only"
    device = next(one for one in own.cookies.jar if one.name == "clinic_device_7860")
    assert wrong(own, "annotator").status_code == 401 and wrong(own, "annotator").status_code == 401
    assert "too many" in right(own).json()["error"], "guesses there are counted, too"
    other.cookies.set("clinic_device_7860", f"{device.value}x", domain="127.0.0.1")
    assert "too many" in right(other).json()["error"], "a forged one is not believed"


def enter_by_form(client: TestClient, name: str) -> None:
    token = re.search(r'name="form_token" value="([^"]+)"', client.get("/login").text)
    assert token
    form = {"name": name, "password": PASSWORD, "form_token": token[1]}
    assert client.post("/login", data=form).status_code == 303


def test_an_address_may_not_try_name_after_name(workspace: Workspace) -> None:
    app = create_app(workspace, ServerConfig(desks=False, login_failures=2))
    sixty_four = [TestClient(app, base_url=ORIGIN, client=(f"2001:db8::{n}", 5)) for n in range(1, 12)]
    answers = [wrong(client, f"name-{n}") for n, client in enumerate(sixty_four)]
    assert ["too many" in answer.json()["error"] for answer in answers] == [False] * 10 + [True]
    assert "from this address" in right(sixty_four[0]).json()["error"]
    assert right(TestClient(app, base_url=ORIGIN, client=("2001:db8:0:1::1", 5))).status_code == 200


def test_guesses_at_one_door_close_no_other(workspace: Workspace) -> None:
    app = create_app(workspace, ServerConfig(desks=False, login_failures=2))
    client = TestClient(app, base_url=ORIGIN)
    for _ in range(4):
        assert client.get("/join?invitation=guess").status_code == 403
        assert client.get("/login?token=guess").status_code == 403
        assert client.get("/login?link=guess").status_code == 403
    assert "unknown invitation links" in client.get("/join?invitation=guess").text
    assert right(client).status_code == 200


def test_refused_sign_ins_are_audited_without_foreign_words_and_bounded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.web.sessions.REFUSALS_KEPT", 3)
    client = TestClient(create_app(workspace, ServerConfig(desks=False)), base_url=ORIGIN)
    for name in ("annotator", "my-secret-password", "nobody", "curator"):
        wrong(client, name)
    with workspace.catalog(read_only=True) as catalog:
        rows = catalog.audit.list(action="session.refused")
    assert [(row.actor, row.subject) for row in reversed(rows)] == [
        ("annotator", "annotator"),
        ("somebody", ""),
        ("somebody", ""),
    ]


def test_a_locked_out_admin_gets_in_by_a_link(workspace: Workspace) -> None:
    app = create_app(workspace, ServerConfig(desks=False, login_failures=1))
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    wrong(client, "admin")
    assert right(client, "admin").status_code == 401
    path = sign_in_link(workspace, "admin", "root")
    assert client.get(path).headers["location"] == "/"
    assert client.get("/api/session").json()["name"] == "admin"
    assert TestClient(app, base_url=ORIGIN).get(path).status_code == 403, "it works once"


def test_a_full_line_is_told_to_come_again(client_of: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of()
    monkeypatch.setattr("ui.web.throttle.WaitingLine.place", lambda line, address: nullcontext(False))
    busy = right(client)
    assert busy.status_code == 503 and "try again" in busy.json()["error"] and busy.headers["retry-after"]
    page = client.post("/login", data={}, headers=HTML)
    assert page.status_code == 503 and page.headers["retry-after"] and "Many people" in page.text
    assert client.get("/login").status_code == 200
    monkeypatch.undo()
    assert right(client).status_code == 200


def test_a_line_has_places_in_all_and_for_each_address() -> None:
    line = WaitingLine(places=3, per_address=2)
    with ExitStack() as held:
        places = [held.enter_context(line.place(address)) for address in "aaabcb"]
        assert places == [True, True, False, True, False, False]
    with line.place("a") as again:
        assert again
    assert line.taken == 0 and not line.inside


def test_no_password_is_hashed_inside_a_transaction(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood of wrong sign-ins held the write lock: an annotator's next image took 4 s instead of 8 ms."""
    with workspace.catalog() as catalog:
        catalog.users.set_password_hash("annotator", former_hash(PASSWORD))
        catalog.commit()
    app = create_app(workspace, ServerConfig(desks=False))
    client = TestClient(app, base_url=ORIGIN)
    inside, during = 0, []
    catalog_of, slot = workspace.catalog, passwords._slot

    @contextmanager
    def counting(**options: bool) -> Iterator[Catalog]:
        nonlocal inside
        inside += 1
        try:
            with catalog_of(**options) as catalog:
                yield catalog
        finally:
            inside -= 1

    @contextmanager
    def watched() -> Iterator[None]:
        during.append(inside)
        with slot():
            yield

    monkeypatch.setattr(workspace, "catalog", counting)
    monkeypatch.setattr(passwords, "_slot", watched)
    assert wrong(client, "annotator").status_code == 401 and right(client).status_code == 200
    client.headers["X-Clinic-CSRF"] = client.get("/api/session").json()["csrf"]
    body = {"current": PASSWORD, "password": "another password"}
    assert client.post("/api/account/password", json=body).status_code == 200
    users.add_user(workspace, "new", PASSWORD, ["rater"], "test")
    users.set_password(workspace, "new", PASSWORD, "test")
    assert during == [0] * 7


def test_signing_in_and_out_leave_audit_events(client_of: Clients, workspace: Workspace) -> None:
    client_of("annotator").post("/api/logout")
    with workspace.catalog(read_only=True) as catalog:
        seen = [event.action for event in catalog.audit.list(actor="annotator")]
    assert seen == ["session.close", "session.open"]


def test_the_start_link_opens_a_workspace_without_accounts(open_client: TestClient) -> None:
    away = open_client.get("/?token=start", headers=HTML)
    assert parse_qs(urlsplit(away.headers["location"]).query) == {"next": ["/"], "token": ["start"]}
    entered = open_client.get(away.headers["location"])
    assert entered.status_code == 303 and entered.headers["location"] == "/"
    session = open_client.get("/api/session").json()
    assert session["local"] and set(session["roles"]) == {
        "annotator",
        "curator",
        "engineer",
        "rater",
        "admin",
    }
    tidy = open_client.get("/?token=start", headers=HTML)
    assert tidy.status_code == 303 and tidy.headers["location"] == "/"


def test_without_the_token_nothing_opens(open_client: TestClient) -> None:
    assert open_client.get("/login?token=wrong").status_code == 403
    assert open_client.get("/api/session").status_code == 401
    assert "start-up" in open_client.get("/login").text or "clinic app" in open_client.get("/login").text
    assert COOKIE not in open_client.cookies


def test_the_first_account_ends_the_start_link_and_its_sessions(
    open_client: TestClient, bare: Workspace
) -> None:
    open_client.get("/login?token=start")
    assert open_client.get("/api/session").status_code == 200
    with bare.catalog() as catalog:
        create_user(catalog, "boss", PASSWORD, ["admin"], "test")
        catalog.commit()
    assert open_client.get("/api/session").status_code == 401
    assert open_client.get("/login?token=start").status_code == 403


def test_elsewhere_than_loopback_needs_accounts(bare: Workspace) -> None:
    with pytest.raises(ConfigRefused, match="accounts"):
        serve(bare, ServerConfig(host="0.0.0.0", port=0, desks=False))
    app = create_app(bare, ServerConfig(host="0.0.0.0", desks=False, start_token="start"))
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    assert client.get("/login?token=start").status_code == 403


def test_a_taken_port_is_said_in_one_line(bare: Workspace) -> None:
    with background(bare, ServerConfig(port=0, desks=False)) as where:
        taken = urlsplit(where.url).port
        with pytest.raises(ConfigRefused, match="choose another --port"):
            serve(bare, ServerConfig(port=taken or 0, desks=False))


def test_the_cookie_key_is_made_once_for_its_owner_alone(bare: Workspace) -> None:
    first = signing_key(bare)
    assert len(first) == 32 and signing_key(bare) == first
    assert (bare.path / "session.key").stat().st_mode & 0o077 == 0


def test_two_clinics_on_one_host_do_not_sign_each_other_out(workspace: Workspace, bare: Workspace) -> None:
    with bare.catalog() as catalog:
        create_user(catalog, "annotator", PASSWORD, ["annotator"], "test")
        catalog.commit()
    jar = CookieJar()  # browsers tell hosts apart, not ports; so does this jar
    clients = [
        TestClient(create_app(one), base_url=f"http://127.0.0.1:{port}", cookies=jar)
        for one, port in ((workspace, 8000), (bare, 8001))
    ]
    for client in clients:
        sign_in(client, "annotator")
    assert {cookie.name for cookie in jar} == {"clinic_session_8000", "clinic_session_8001"}
    assert [client.get("/api/session").status_code for client in clients] == [200, 200]
    assert clients[0].post("/api/logout").status_code == 200
    assert [client.get("/api/session").status_code for client in clients] == [401, 200]


def test_behind_https_the_cookie_is_bound_to_the_host(workspace: Workspace) -> None:
    app = create_app(
        workspace, ServerConfig(desks=False, secure_cookies=True, allowed_hosts=("clinic.example",))
    )
    client = TestClient(app, base_url="https://clinic.example")
    header = sign_in_header(client)
    name, _, rest = header.partition("=")
    fields = {field.strip().lower() for field in rest.split(";")[1:]}
    assert name == "__Host-clinic_session_443"
    assert {"secure", "path=/", "httponly"} <= fields and not any(one.startswith("domain") for one in fields)
    assert client.get("/api/session").status_code == 200
    client.headers["X-Clinic-CSRF"] = client.get("/api/session").json()["csrf"]
    ended = client.post("/api/logout").headers.get_list("set-cookie")
    dropped = next(one for one in ended if one.startswith("__Host-"))
    assert "Secure" in dropped and "Max-Age=0" in dropped, "else a browser keeps it"


def sign_in_header(client: TestClient) -> str:
    body = {"name": "annotator", "password": PASSWORD}
    headers = client.post("/api/login", json=body).headers.get_list("set-cookie")
    return next(one for one in headers if "clinic_session" in one)


def test_a_cookie_of_the_former_name_is_read_once(client_of: Clients) -> None:
    signed = client_of("annotator").cookies[COOKIE]
    client = client_of()
    former = {"Cookie": f"{FORMER}={signed}"}
    answer = client.get("/api/session", headers=former)
    assert answer.status_code == 200
    new, dropped = answer.headers.get_list("set-cookie")[0], answer.headers.get_list("set-cookie")[-1]
    assert new.startswith(f"{COOKIE}={signed}") and dropped.startswith(f'{FORMER}=""')
    assert client.get("/api/session", headers={"Cookie": f"{FORMER}=forged"}).status_code == 401
    both = {"Cookie": f"{FORMER}=forged; {COOKIE}={signed}"}
    assert "set-cookie" not in client.get("/api/session", headers=both).headers
