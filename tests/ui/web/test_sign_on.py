"""Single sign-on: with a real provider, with one that misbehaves, and who gets in as whom."""

import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import oidc_provider_mock
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dataengine.errors import ConfigRefused
from pipelines.services.admin.tokens import create_token
from pipelines.services.sign_on import provider as provider_module
from pipelines.services.sign_on.provider import SECRET, SECRET_FILE, Provider, read_secret
from storage.accounts import create_user, set_active
from storage.opening import open_workspace
from storage.workspace import Workspace
from tests import bad_provider
from tests.bad_provider import (
    FAULTS,
    BadProvider,
    begin,
    client_of,
    come_back,
    config_of,
    signed_in,
    who,
)
from tests.ui.conftest import ORIGIN, PASSWORD
from ui.config import ServerConfig
from ui.server import create_app

COOKIE = "clinic_session_7860"


@pytest.fixture(scope="module")
def shared() -> Iterator[BadProvider]:
    with BadProvider() as made:
        yield made


@pytest.fixture
def provider(shared: BadProvider, monkeypatch: pytest.MonkeyPatch) -> BadProvider:
    """A provider that does right, with its client's secret in the environment."""
    monkeypatch.setenv(SECRET, bad_provider.SECRET)
    shared.fault, shared.requests, shared.key = "", [], shared.first_key
    shared.claims = {"sub": "anna-1", "preferred_username": "anna", "groups": ["drawers"]}
    return shared


def test_a_real_provider_lets_a_person_in_and_out(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "any")
    with oidc_provider_mock.run_server_in_thread() as server:
        issuer = f"http://localhost:{server.server_port}"
        httpx.put(
            f"{issuer}/users/u1",
            json={"preferred_username": "berta", "email": "b@x.example", "groups": ["drawers", "others"]},
        )
        client = client_of(workspace, config_of(issuer))
        assert "Sign in with Corp" in client.get("/login").text
        sent = httpx.post(begin(client, "/annotate"), data={"sub": "u1"})
        assert sent.status_code == 302
        back = come_back(client, sent.headers["location"])
        assert back.status_code == 303 and back.headers["location"] == "/annotate"
        assert (who(client)["name"], who(client)["roles"]) == ("berta", ["annotator"])
        csrf = who(client)["csrf"]
        away = client.post("/api/logout", headers={"X-Clinic-CSRF": csrf}).json()["next"]
        assert client.get("/api/session").status_code == 401
        ended = client.get(away).headers["location"]
        assert ended.startswith(f"{issuer}/oauth2/end_session?") and "post_logout_redirect_uri=" in ended
        assert httpx.get(ended).status_code == 200


def test_the_same_subject_is_the_same_account_whatever_it_is_called(
    workspace: Workspace, provider: BadProvider
) -> None:
    client = client_of(workspace, config_of(provider.issuer))
    assert signed_in(client, provider).status_code == 303
    provider.claims |= {"preferred_username": "anna.married", "groups": ["leads"]}
    assert signed_in(client, provider).status_code == 303
    assert who(client)["name"] == "anna" and set(who(client)["roles"]) == {"curator", "admin"}, (
        "roles are new"
    )
    provider.claims |= {"sub": "anna-2", "preferred_username": "anna"}
    assert signed_in(client, provider).status_code == 303 and who(client)["name"] == "anna-2"


def test_a_local_account_of_the_same_name_or_address_is_never_taken_over(
    workspace: Workspace, provider: BadProvider
) -> None:
    with workspace.catalog() as catalog:
        create_user(catalog, "root@corp.example", PASSWORD, ["admin"], "test")
        catalog.commit()
    provider.claims |= {"preferred_username": "admin", "email": "root@corp.example", "email_verified": True}
    client = client_of(workspace, config_of(provider.issuer))
    assert signed_in(client, provider).status_code == 303
    assert (who(client)["name"], who(client)["roles"]) == ("admin-2", ["annotator"])
    provider.claims |= {"sub": "x-9", "preferred_username": ""}
    assert signed_in(client, provider).status_code == 303
    assert (who(client)["name"], who(client)["roles"]) == ("root@corp.example-2", ["annotator"])
    wrong = client.post("/api/login", json={"name": "admin-2", "password": ""})
    assert wrong.status_code == 401, "an account of sign-on has no password"


def test_who_has_no_role_any_more_is_refused_and_signed_out(
    workspace: Workspace, provider: BadProvider
) -> None:
    client = client_of(workspace, config_of(provider.issuer))
    signed_in(client, provider)
    text, _ = create_token(workspace, "anna", "a program", ["annotator"], 1, "test")
    other = client_of(workspace, config_of(provider.issuer))
    provider.claims |= {"groups": ["visitors"]}
    refused = signed_in(other, provider)
    assert refused.status_code == 403 and "none of your groups has a role here" in refused.text
    assert 'href="/login' in refused.text, "there is a way back"
    assert client.get("/api/session").status_code == 401
    program = other.get("/api/session", headers={"Authorization": f"Bearer {text}"})
    assert program.status_code == 401 and "was revoked" in program.text
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.audit.list(action="session.refused")[0].details == {"reason": "no role"}


def test_behind_a_proxy_the_way_back_has_its_scheme_and_sub_path(
    workspace: Workspace, provider: BadProvider
) -> None:
    settings = ServerConfig(
        desks=False,
        oidc=config_of(provider.issuer),
        trusted_proxies=("192.0.2.9",),
        allowed_hosts=("clinic.example",),
    )
    app = create_app(workspace, settings)
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/clinic", "X-Forwarded-For": "198.51.100.7"}
    client = TestClient(
        app,
        base_url="https://clinic.example",
        headers=told,
        client=("192.0.2.9", 5),
        follow_redirects=False,
    )
    away = client.get("/clinic/login/sso?next=/annotate")
    asked = parse_qs(urlsplit(away.headers["location"]).query)
    assert asked["redirect_uri"] == ["https://clinic.example/clinic/login/sso/callback"]
    cookie = away.headers["set-cookie"]
    assert "Path=/clinic/login/sso" in cookie and "Secure" in cookie
    inside = client.get(provider.sign_in(away.headers["location"]))
    assert inside.status_code == 303 and inside.headers["location"] == "/clinic/annotate"
    assert client.get("/clinic/api/session").json()["name"] == "anna"


def test_a_deactivated_account_stays_out(workspace: Workspace, provider: BadProvider) -> None:
    client = client_of(workspace, config_of(provider.issuer))
    signed_in(client, provider)
    with workspace.catalog() as catalog:
        set_active(catalog, "anna", False, "test")
        catalog.commit()
    refused = signed_in(client, provider)
    assert refused.status_code == 403 and "deactivated" in refused.text


@pytest.mark.parametrize(
    ("claim", "content"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["drawers"]}}),
        ("https://x.example/groups", {"https://x.example/groups": "drawers"}),
    ],
)
def test_groups_may_be_nested_or_one_text(
    workspace: Workspace, provider: BadProvider, claim: str, content: dict[str, Any]
) -> None:
    provider.claims = {"sub": "n", "email": "nina@x.example"} | content
    client = client_of(workspace, config_of(provider.issuer, groups_claim=claim))
    assert signed_in(client, provider).status_code == 303
    assert (who(client)["name"], who(client)["roles"]) == ("nina@x.example", ["annotator"])


@pytest.mark.parametrize("content", [5, {"drawers": True}, [["drawers"], 5, None], "x"])
def test_groups_of_another_kind_are_none(workspace: Workspace, provider: BadProvider, content: Any) -> None:
    provider.claims |= {"groups": content}
    assert signed_in(client_of(workspace, config_of(provider.issuer)), provider).status_code == 403


def test_groups_come_from_the_user_information_where_the_token_has_none(
    workspace: Workspace, provider: BadProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(workspace, config_of(provider.issuer))
    whole = BadProvider.id_token

    def lean(self: BadProvider, nonce: str) -> str:
        kept, self.claims = self.claims, {"sub": self.claims["sub"]}
        try:
            return whole(self, nonce)
        finally:
            self.claims = kept

    monkeypatch.setattr(BadProvider, "id_token", lean)
    assert signed_in(client, provider).status_code == 303 and who(client)["roles"] == ["annotator"]
    provider.fault = "userinfo of somebody"
    refused = signed_in(client, provider)
    assert refused.status_code == 403 and "somebody else" in refused.text


def test_the_first_admin_is_the_one_whom_the_settings_name(bare: Workspace, provider: BadProvider) -> None:
    config = config_of(provider.issuer, first_admin="Boss@corp.example")
    client = client_of(bare, config)
    refused = signed_in(client, provider)
    assert refused.status_code == 403 and "obody is admin here yet" in refused.text
    provider.claims |= {"sub": "b", "preferred_username": "boss", "email": "boss@corp.example"}
    assert signed_in(client, provider).status_code == 403, "the address is not verified"
    provider.claims |= {"email_verified": True}
    for _ in range(2):
        assert signed_in(client, provider).status_code == 303
        assert who(client)["roles"] == ["annotator", "admin"], "also the next time, while nobody else is"
    with bare.catalog() as catalog:
        create_user(catalog, "other", PASSWORD, ["admin"], "test")
        catalog.commit()
    assert signed_in(client, provider).status_code == 303 and who(client)["roles"] == ["annotator"]


def test_passwords_can_be_turned_off(workspace: Workspace, provider: BadProvider) -> None:
    client = client_of(workspace, config_of(provider.issuer), local_accounts=False)
    page = client.get("/login").text
    assert "Sign in with Corp" in page and "password" not in page.lower()
    refused = client.post("/api/login", json={"name": "annotator", "password": PASSWORD})
    assert refused.status_code == 401 and "passwords are not accepted here" in refused.json()["error"]
    beside = client_of(workspace, config_of(provider.issuer))
    token = re.search(r'name="form_token" value="([^"]+)"', client.get("/login").text)
    assert token is None and "password" in beside.get("/login").text.lower()
    assert beside.post("/api/login", json={"name": "annotator", "password": PASSWORD}).status_code == 200
    with pytest.raises(ConfigRefused, match="nobody could sign in"):
        create_app(workspace, ServerConfig(desks=False, local_accounts=False))


@pytest.fixture(scope="module")
def usual(
    templates: Path, tmp_path_factory: pytest.TempPathFactory, shared: BadProvider
) -> Iterator[tuple[Workspace, FastAPI]]:
    """A workspace and a server over it that the faults share: most of them leave nothing behind."""
    folder = tmp_path_factory.mktemp("sign_on") / "workspace"
    made = open_workspace(shutil.copytree(templates / "furnished", folder))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(SECRET, bad_provider.SECRET)
        app = client_of(made, config_of(shared.issuer)).app
    yield made, app  # type: ignore[misc]
    made.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_provider_is_one_sentence_and_nobody_is_let_in(
    usual: tuple[Workspace, FastAPI], provider: BadProvider, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_provider, "SLOW_SECONDS", 0.4)
    workspace, app = usual
    control, client = (TestClient(app, base_url=ORIGIN, follow_redirects=False) for _ in range(2))
    assert signed_in(control, provider).status_code == 303
    if re.search("discovery|slow|key", fault):  # what the shared server already knows
        client = client_of(
            workspace, config_of(provider.issuer, timeout_seconds=0.2 if "slow" in fault else 5.0)
        )
    provider.fault = fault
    started: Any = client.get("/login/sso")
    back = started.status_code == 303
    answer = come_back(client, provider.sign_in(started.headers["location"])) if back else started
    assert answer.status_code in (403, 503), answer.text
    text = answer.text.replace("&#39;", "'")
    assert FAULTS[fault] in text and "<script>alert" not in text
    assert 'href="/login' in text and COOKIE not in client.cookies
    assert client.get("/api/session").status_code == 401


def test_a_callback_counts_once_and_only_in_the_browser_that_began_it(
    workspace: Workspace, provider: BadProvider
) -> None:
    client, thief = (client_of(workspace, config_of(provider.issuer)) for _ in range(2))
    back = provider.sign_in(begin(client))
    stolen = come_back(thief, back)
    assert stolen.status_code == 403 and COOKIE not in thief.cookies
    kept = dict(client.cookies)
    assert come_back(client, back).status_code == 303
    assert come_back(client, back).status_code == 403, "its cookie is gone"
    client.cookies.clear()
    for name, value in kept.items():
        client.cookies.set(name, value, domain="127.0.0.1")
    asked = len(provider.requests)
    assert come_back(client, back).status_code == 403 and len(provider.requests) == asked, (
        "nor by a kept cookie"
    )
    other = provider.sign_in(begin(thief))
    reused = re.sub(r"code=[^&]+", "code=" + urlsplit(back).query.split("code=")[1].split("&")[0], other)
    refused = come_back(thief, reused)
    assert refused.status_code == 403 and "did not accept this sign-in" in refused.text


def test_a_forged_cookie_is_refused(workspace: Workspace, provider: BadProvider) -> None:
    client = client_of(workspace, config_of(provider.issuer))
    back = provider.sign_in(begin(client))
    name = next(one for one in client.cookies if one.startswith("clinic_sign_on"))
    for forged in ("", "a.b.c", client.cookies[name][:-3] + "xxx"):
        client.cookies.clear()
        client.cookies.set(name, forged, domain="127.0.0.1", path="/login/sso")
        assert come_back(client, back).status_code == 403


def test_rotated_keys_are_fetched_once_and_strange_ones_do_not_make_us_ask(
    workspace: Workspace, provider: BadProvider
) -> None:
    client = client_of(workspace, config_of(provider.issuer))
    assert signed_in(client, provider).status_code == 303
    provider.rotate()
    assert signed_in(client, provider).status_code == 303
    assert provider.requests.count("/keys") == 2
    provider.fault = "unknown key id"
    for _ in range(5):
        assert signed_in(client, provider).status_code == 403
    assert provider.requests.count("/keys") == 2, "the last request for keys was just now"
    assert provider.requests.count("/.well-known/openid-configuration") == 1


def test_a_provider_that_is_down_is_not_asked_by_every_stranger(
    workspace: Workspace, provider: BadProvider
) -> None:
    client = client_of(workspace, config_of(provider.issuer))
    provider.fault = "discovery answers 500"
    assert [client.get("/login/sso").status_code for _ in range(5)] == [503] * 5
    assert len(provider.requests) == 1


def test_clocks_may_differ_a_little(workspace: Workspace, provider: BadProvider) -> None:
    import time

    now = int(time.time())
    provider.claims |= {"iat": now + 40, "nbf": now + 40, "exp": now - 40}
    assert signed_in(client_of(workspace, config_of(provider.issuer)), provider).status_code == 303
    strict = client_of(workspace, config_of(provider.issuer, leeway_seconds=5))
    assert signed_in(strict, provider).status_code == 403


@pytest.mark.parametrize(
    "issuer", ["http://sso.example.org", "http://10.0.0.1/x", "https://me:pw@sso.example.org"]
)
def test_an_issuer_without_https_or_with_credentials_is_refused(workspace: Workspace, issuer: str) -> None:
    with pytest.raises(ConfigRefused, match=r"oidc\.issuer"):
        client_of(workspace, config_of(issuer))
    with pytest.raises(ConfigRefused, match="client_id"):
        client_of(workspace, config_of("https://sso.example.org", client_id=""))


def test_a_private_provider_needs_a_permission(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        "dataengine.outgoing.socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.1.2.3", 0))]
    )
    client = client_of(workspace, config_of("https://sso.corp.example"))
    with caplog.at_level(logging.WARNING):
        answer = client.get("/login/sso")
    assert answer.status_code == 503 and "may not connect to its address" in answer.text
    assert "10.1.2.3" not in answer.text


def test_the_secret_is_in_no_setting_and_in_no_log(
    workspace: Workspace,
    provider: BadProvider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Any,
) -> None:
    config = config_of(provider.issuer)
    with caplog.at_level(logging.DEBUG):
        client = client_of(workspace, config)
        assert signed_in(client, provider).status_code == 303
        provider.fault = "token endpoint refuses the code"
        assert signed_in(client, provider).status_code == 403
    told = caplog.text + repr(vars(client.app)) + ServerConfig(oidc=config).model_dump_json()
    assert bad_provider.SECRET not in told and "id_token" not in caplog.text
    (tmp_path / "secret").write_text("from the file\n")
    monkeypatch.setenv(SECRET_FILE, str(tmp_path / "secret"))
    assert read_secret() == "from the file"
    monkeypatch.setenv(SECRET_FILE, str(tmp_path / "gone"))
    with pytest.raises(ConfigRefused, match=SECRET_FILE):
        read_secret()


def test_a_provider_is_kept_for_an_hour(provider: BadProvider) -> None:
    at = [0.0]
    made = Provider(config_of(provider.issuer), clock=lambda: at[0])
    for moment, times in (
        (0.0, 1),
        (provider_module.FRESH_SECONDS - 1, 1),
        (provider_module.FRESH_SECONDS + 1, 2),
    ):
        at[0] = moment
        made.metadata(), made.keys()
        assert provider.requests.count("/keys") == times


def test_sign_on_without_a_setting_is_not_there(workspace: Workspace) -> None:
    client = TestClient(
        create_app(workspace, ServerConfig(desks=False)), base_url=ORIGIN, follow_redirects=False
    )
    assert client.get("/login/sso").status_code == 404 and "Sign in with" not in client.get("/login").text
