"""Requests behind reverse proxies: who is believed, and what the browser sees."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.datastructures import Headers

from dataengine.errors import InputRefused
from storage.workspace import Workspace
from tests.ui.conftest import PASSWORD, sign_in
from ui.config import ServerConfig
from ui.server import create_app
from ui.web.proxies import Forwarded, Seen, address_in

PROXY, STRANGER = "10.0.0.7", "192.0.2.9"
HTML = {"Accept": "text/html"}
HTTPS = {"Host": "clinic.example", "X-Forwarded-For": "203.0.113.5", "X-Forwarded-Proto": "https"}
DIRECT = Seen(client=PROXY, scheme="http", host="inner:7860", prefix="")
Behind = Callable[..., TestClient]


@pytest.fixture
def behind(workspace: Workspace) -> Behind:
    """Clients of one server that trusts 10.0.0.0/24, each from an address."""
    settings = ServerConfig(
        desks=False, trusted_proxies=("10.0.0.0/24",), allowed_hosts=("clinic.example",), login_failures=2
    )
    app = create_app(workspace, settings)

    def client(address: str = PROXY, **headers: str) -> TestClient:
        return TestClient(
            app,
            base_url="http://clinic.example",
            client=(address, 5),
            follow_redirects=False,
            headers=headers,
        )

    return client


def read(**headers: str) -> Seen:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Forwarded(None, ("10.0.0.0/24", "2001:db8::/32")).read(Headers(named), DIRECT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "seen"),
    [
        ({}, DIRECT),
        ({"x_forwarded_for": "203.0.113.5"}, {"client": "203.0.113.5"}),
        ({"x_forwarded_for": "1.1.1.1, 203.0.113.5, 10.0.0.8"}, {"client": "203.0.113.5"}),
        ({"x_forwarded_for": "10.0.0.9, 10.0.0.8"}, {"client": "10.0.0.9"}),
        ({"x_forwarded_for": "[2001:db9::1]:443"}, {"client": "2001:db9::1"}),
        ({"x_forwarded_for": "unknown"}, {"client": PROXY}),
        ({"x_forwarded_proto": "HTTPS"}, {"scheme": "https"}),
        ({"x_forwarded_proto": "https, https"}, {"scheme": "https"}),
        ({"x_forwarded_host": "a.example:8443"}, {"host": "a.example:8443"}),
        ({"x_forwarded_host": "a.example", "x_forwarded_port": "8080"}, {"host": "a.example:8080"}),
        ({"x_forwarded_host": "a.example", "x_forwarded_port": "80"}, {"host": "a.example"}),
        ({"x_forwarded_host": "a.example:1", "x_forwarded_port": "443"}, {"host": "a.example:1"}),
        ({"x_forwarded_prefix": "/clinic/"}, {"prefix": "/clinic"}),
        ({"x_forwarded_prefix": "/a/b-c"}, {"prefix": "/a/b-c"}),
        ({"x_forwarded_prefix": "/"}, {"prefix": ""}),
        (
            {"forwarded": 'for="[2001:db9::1]:4711";proto=https;host=a.example, for=10.0.0.8'},
            {"client": "2001:db9::1", "scheme": "https", "host": "a.example"},
        ),
    ],
)
def test_a_trusted_proxy_is_read(headers: dict[str, str], seen: Seen | dict[str, str]) -> None:
    found = read(**headers)
    wanted = seen if isinstance(seen, Seen) else seen.items()
    if isinstance(wanted, Seen):
        assert found == wanted
    else:
        assert {name: getattr(found, name) for name, _ in wanted} == dict(wanted)


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"x_forwarded_proto": "ftp"}, "X-Forwarded-Proto"),
        ({"x_forwarded_proto": "http, https"}, "X-Forwarded-Proto headers contradict"),
        ({"x_forwarded_host": "a.example, b.example"}, "X-Forwarded-Host headers contradict"),
        ({"x_forwarded_host": "a b"}, "X-Forwarded-Host"),
        ({"x_forwarded_host": "a.example/x"}, "X-Forwarded-Host"),
        ({"x_forwarded_port": "0"}, "X-Forwarded-Port"),
        ({"x_forwarded_port": "x"}, "X-Forwarded-Port"),
        ({"x_forwarded_prefix": "//evil.example"}, "X-Forwarded-Prefix"),
        ({"x_forwarded_prefix": "/a/../b"}, "X-Forwarded-Prefix"),
        ({"x_forwarded_prefix": '/"><script>'}, "X-Forwarded-Prefix"),
        ({"x_forwarded_for": "<script>"}, "X-Forwarded-For"),
        ({"forwarded": "proto=http", "x_forwarded_proto": "https"}, "Forwarded"),
        ({"forwarded": "nonsense"}, "Forwarded header is malformed"),
    ],
)
def test_contradictions_are_refused_by_the_headers_name(headers: dict[str, str], named: str) -> None:
    with pytest.raises(InputRefused, match=named):
        read(**headers)


def test_an_address_is_read_with_and_without_its_port() -> None:
    for text in ("192.0.2.1", "192.0.2.1:80", '"192.0.2.1"'):
        assert address_in(text) == "192.0.2.1"
    assert address_in("[2001:db8::1]") == address_in("2001:db8::1") == "2001:db8::1"


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"trusted_proxies": ["*"]}, {"root_path": "clinic"}, {"root_path": "/a/"}):
        with pytest.raises(ValidationError):
            ServerConfig.model_validate(wrong)


def test_refusals_are_pages_that_name_the_header(behind: Behind) -> None:
    page = behind().get("/login", headers=HTTPS | HTML | {"X-Forwarded-Proto": "gopher"})
    assert page.status_code == 400 and "X-Forwarded-Proto" in page.text and "<h1>" in page.text
    assert behind().get("/api/session", headers={"X-Forwarded-Proto": "x"}).json()["error"]
    assert "X-Frame-Options" in page.headers, "refusals have the headers of all answers"


def test_guesses_are_counted_by_the_true_address(behind: Behind) -> None:
    def attempt(address: str, password: str) -> str:
        body = {"name": "annotator", "password": password}
        answer = behind().post("/api/login", json=body, headers=HTTPS | {"X-Forwarded-For": address})
        return "in" if answer.status_code == 200 else answer.json()["error"]

    for _ in range(2):
        assert attempt("203.0.113.5", "wrong").startswith("wrong name")
    assert attempt("203.0.113.5", PASSWORD).startswith("too many")
    assert attempt("198.51.100.1, 203.0.113.5", PASSWORD).startswith("too many"), "forged entries"
    assert attempt("203.0.113.6", PASSWORD) == "in"


def test_a_stranger_forges_nothing(behind: Behind) -> None:
    forged = {
        "X-Forwarded-For": "203.0.113.5",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Prefix": "/evil",
        "Forwarded": "host=evil.example",
    }
    client = behind(STRANGER, **forged)
    for _ in range(2):
        client.post("/api/login", json={"name": "annotator", "password": "wrong"})
    more = client.post(
        "/api/login",
        json={"name": "annotator", "password": PASSWORD},
        headers={"X-Forwarded-For": "203.0.113.77"},
    )
    assert "too many" in more.json()["error"], "the address in the header is not believed"
    page = client.get("/login", headers=HTML)
    assert "evil" not in page.text + str(page.headers) and "Secure" not in page.headers["set-cookie"]
    refused = client.post("/api/login", json={}, headers={"Origin": "https://clinic.example:8443"})
    assert refused.status_code == 403 and "trusted_proxies" in refused.json()["error"]
    believed = behind(**forged | {"X-Forwarded-Host": "clinic.example", "Forwarded": ""}).get("/login")
    assert "/evil/login" in believed.text, "the control: the same is believed from the proxy"


def test_https_is_known_without_a_setting(behind: Behind) -> None:
    client = behind(**HTTPS)
    answer = client.post("/api/login", json={"name": "annotator", "password": PASSWORD})
    assert answer.headers["set-cookie"].startswith("__Host-clinic_session_443=")
    assert "Secure" in answer.headers["set-cookie"]


def test_a_sub_path_is_on_every_address(behind: Behind) -> None:
    client = behind(**HTTPS, **{"X-Forwarded-Prefix": "/clinic"})
    for path in ("/annotate", "/clinic/annotate"):  # stripped by the proxy, and not
        away = client.get(path, headers=HTML)
        assert away.headers["location"] == "/clinic/login?next=%2Fannotate"
    page = client.get("/login", headers=HTML)
    assert 'action="/clinic/login"' in page.text and 'href="/clinic/static/style.css"' in page.text
    assert '="/static' not in page.text and "path=/clinic/login" in page.headers["set-cookie"].lower()
    answer = client.post("/api/login", json={"name": "annotator", "password": PASSWORD})
    cookie = answer.headers.get_list("set-cookie")[0]
    assert cookie.startswith("__Secure-clinic_session_443_clinic=") and "Path=/clinic/" in cookie
    own = {"Cookie": cookie.partition(";")[0]}
    desk = client.get("/annotate", headers=HTML | own)
    assert desk.status_code == 200 and 'src="/clinic/static/annotate/main.js"' in desk.text
    assert client.get("/static/style.css").status_code == 200
    assert client.get("/annotate/", headers=HTML | own).headers["location"] == "/clinic/annotate"
    home = client.get("/", headers=HTML | own)
    assert 'href="/clinic/annotate"' in home.text and '="/annotate' not in home.text
    missing = client.get("/nothing", headers=HTML | own)
    assert missing.status_code == 404 and 'href="/clinic/"' in missing.text


def test_a_sub_path_can_be_a_setting(workspace: Workspace) -> None:
    app = create_app(workspace, ServerConfig(desks=False, root_path="/clinic"))
    client = TestClient(app, base_url="http://127.0.0.1:7860", follow_redirects=False)
    assert 'action="/clinic/login"' in client.get("/clinic/login", headers=HTML).text
    assert client.get("/clinic", headers=HTML).headers["location"].startswith("/clinic/login")
    sign_in(client, "annotator")
    assert client.get("/clinic/api/session").status_code == 200


def test_two_clinics_on_one_host_have_cookies_of_their_own(behind: Behind) -> None:
    names = set()
    for prefix in ("/a", "/a/b", "/b", ""):
        client = behind(**HTTPS, **{"X-Forwarded-Prefix": prefix})
        header = client.post("/api/login", json={"name": "annotator", "password": PASSWORD}).headers
        names.add(header["set-cookie"].partition("=")[0])
    assert len(names) == 4


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Origin": "https://clinic.example"}, 200, ""),
        ({"Origin": "https://clinic.example:443"}, 200, ""),
        ({"Origin": "https://evil.example"}, 403, "cross-site"),
        ({"Origin": "http://clinic.example"}, 403, "X-Forwarded-Proto"),
        ({"Origin": "https://clinic.example:8443"}, 403, "Host with its port"),
        ({"Origin": "https://clinic.example:8443", "Sec-Fetch-Site": "same-origin"}, 200, ""),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}, 403, "cross-site"),
        ({"Origin": "https://clinic.example:8443", "X-Forwarded-Port": "8443"}, 200, ""),
        ({"Origin": "https://clinic.example", "X-Forwarded-Port": "8443"}, 403, "Host"),
        ({"Origin": "https://clinic.example", "X-Forwarded-Host": "other.example"}, 421, "allowed_hosts"),
    ],
)
def test_origins_are_compared_with_the_browsers_address(
    behind: Behind, headers: dict[str, str], status: int, words: str
) -> None:
    body = {"name": "annotator", "password": PASSWORD}
    answer = behind().post("/api/login", json=body, headers=HTTPS | headers)
    assert answer.status_code == status and words in answer.text
