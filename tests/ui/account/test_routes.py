"""The own account: password, forced change, sessions."""

import re
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from pipelines.services.admin import users
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, PASSWORD, sign_in
from ui.config import ServerConfig
from ui.server import create_app

Clients = Callable[..., TestClient]
HTML = {"Accept": "text/html"}
NEW = "a new pass phrase"


def change(client: TestClient, current: str, password: str) -> tuple[int, dict[str, object]]:
    answer = client.post("/api/account/password", json={"current": current, "password": password})
    return answer.status_code, answer.json()


@pytest.mark.parametrize("name", ["annotator", "rater", "admin"])
def test_everybody_changes_the_own_password(client_of: Clients, name: str) -> None:
    """desks 6.1: nobody could; the other browsers are signed out, this one stays."""
    here, elsewhere = client_of(name), client_of(name)
    assert change(here, PASSWORD, NEW) == (200, {"changed": True})
    assert here.get("/api/account").status_code == 200 and elsewhere.get("/api/account").status_code == 401
    assert client_of().post("/api/login", json={"name": name, "password": PASSWORD}).status_code == 401
    sign_in(client_of(), name, NEW)


@pytest.mark.parametrize(
    ("current", "password", "status", "words"),
    [
        ("wrong password", NEW, 403, "current password is wrong"),
        (PASSWORD, "short", 422, "10 to 1024 characters"),
        (PASSWORD, PASSWORD, 422, "choose another"),
        ("", NEW, 403, "current password is wrong"),
    ],
)
def test_a_change_that_is_refused_says_why(
    client_of: Clients, current: str, password: str, status: int, words: str
) -> None:
    client = client_of("curator")
    found, answer = change(client, current, password)
    assert found == status and words in str(answer["error"])
    sign_in(client_of(), "curator")


def test_guesses_of_the_current_password_are_counted(client_of: Clients) -> None:
    client = client_of("curator")
    statuses = [change(client, f"guess number {n}", NEW)[1]["error"] for n in range(11)]
    assert "wrong" in str(statuses[9]) and "too many failed attempts" in str(statuses[10])
    assert "too many failed attempts" in str(change(client, PASSWORD, NEW)[1]["error"])


def test_a_password_that_an_admin_chose_has_to_be_changed_first(
    client_of: Clients, workspace: Workspace
) -> None:
    """desks 6.1: no forced change after the admin chose it."""
    users.set_password(workspace, "annotator", "chosen by an admin", "admin", must_change=True)
    client = sign_in(client_of(), "annotator", "chosen by an admin")
    page = client.get("/annotate", headers=HTML)
    assert page.status_code == 303 and page.headers["location"] == "/account?next=%2Fannotate"
    refused = client.get("/api/annotate/next")
    assert refused.status_code == 403 and "password of your own" in refused.json()["error"]
    assert client.get("/account", headers=HTML).status_code == 200
    assert client.get("/api/account").json()["must_change"] is True
    assert change(client, "chosen by an admin", NEW)[0] == 200
    assert client.get("/annotate", headers=HTML).status_code == 200
    assert client.get("/api/account").json()["must_change"] is False


def test_own_sessions_are_listed_and_ended(client_of: Clients) -> None:
    """desks 6.1: no session list. Somebody else's session cannot be ended, whatever id is sent."""
    firefox = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"}
    here, other, third = client_of("annotator"), client_of(headers=firefox), client_of("annotator")
    sign_in(other, "annotator")
    stranger = client_of("curator")
    listed = here.get("/api/account").json()["sessions"]
    assert sorted(one["client"] for one in listed) == ["Firefox on Linux", "a program", "a program"]
    assert [one["current"] for one in listed].count(True) == 1
    theirs = stranger.get("/api/account").json()["sessions"][0]["id"]
    assert here.post("/api/account/sessions/end", json={"id": theirs}).json() == {"ended": 0}
    firefox_id = next(one["id"] for one in listed if one["client"] == "Firefox on Linux")
    assert here.post("/api/account/sessions/end", json={"id": firefox_id}).json() == {"ended": 1}
    assert other.get("/api/account").status_code == 401 and third.get("/api/account").status_code == 200
    assert here.post("/api/account/sessions/end", json={}).json() == {"ended": 1}
    assert third.get("/api/account").status_code == 401 and here.get("/api/account").status_code == 200
    assert stranger.get("/api/account").status_code == 200


def test_without_accounts_there_is_nothing_to_change(bare: Workspace) -> None:
    app = create_app(bare, ServerConfig(desks=False, start_token="start"))
    client = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    client.get("/login?token=start")
    client.headers["X-Clinic-CSRF"] = client.get("/api/session").json()["csrf"]
    assert client.get("/api/account").json()["local"] is True
    assert change(client, "", NEW)[0] == 409


def test_the_first_account_signs_its_maker_in(bare: Workspace) -> None:
    """desks 1.5: it was created, then "sign in first" appeared, and the banner stayed."""
    app = create_app(bare, ServerConfig(desks=False, start_token="start"))
    client, other = (TestClient(app, base_url=ORIGIN, follow_redirects=False) for _ in range(2))
    for each in (client, other):
        each.get("/login?token=start")
    manager, headers = app.state.session_manager, client.get("/api/session").request.headers
    person = manager.person_in(headers)[0]
    users.add_user(bare, "ada", PASSWORD, ["admin"], person.name)
    manager.adopt(person, "ada")
    session = client.get("/api/session").json()
    assert (session["name"], session["local"], session["must_change"]) == ("ada", False, False)
    assert other.get("/api/session").status_code == 401
    assert len(users.sessions_of(bare, "ada")) == 1


def test_a_wrong_password_keeps_the_name(client_of: Clients) -> None:
    """desks 1.11, with any name that fits the field, escaped."""
    for name in ("annotator", 'x"><script>', "no such person"):
        client = client_of()
        page = client.get("/login?next=/annotate", headers=HTML)
        token = re.search(r'name="form_token" value="([^"]+)"', page.text)
        assert token
        form = {"name": name, "password": "wrong password", "form_token": token[1], "next": "/annotate"}
        again = client.post("/login", data=form)
        escaped = name.replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;")
        assert again.status_code == 403 and 'name="name"' in again.text
        assert f'value="{escaped}"' in again.text and 'value="/annotate"' in again.text
        assert "deactivated" in again.text and "closed" not in again.text


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("/curate?view=review&label=3", True),
        ("/annotate#keys", True),
        ("/train?run=1#log", True),
        ("/curate/../api/login", False),
        ("//evil.example/curate", False),
        ("/nothing", False),
    ],
)
def test_one_lands_where_one_was(client_of: Clients, target: str, kept: bool) -> None:
    """desks 1.11: signing out and in again led home."""
    page = client_of().get("/login", params={"next": target}, headers=HTML)
    found = re.search(r'name="next" value="([^"]+)"', page.text)
    assert found and found[1].replace("&amp;", "&") == (target if kept else "/")


def test_the_password_is_objected_to_before_the_role(bare: Workspace) -> None:
    """desks 1.6: a short password gave only "the first account must have the role admin"."""
    with pytest.raises(Exception, match="password has 10 to 1024"):
        users.add_user(bare, "ann", "short", ["annotator"], "local")
    with pytest.raises(Exception, match="first account must have the admin role"):
        users.add_user(bare, "ann", PASSWORD, ["annotator"], "local")
    assert not users.list_accounts(bare)
