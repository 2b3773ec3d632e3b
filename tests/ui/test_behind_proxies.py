"""A server behind real nginx and Caddy, by the configuration files of the documentation."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser

from tests.proxies import PROXIES, Proxy, proxy, unverified
from tests.ui.browsing import PASSWORD
from tests.ui.conftest import copied
from tests.walks import walk
from ui.config import ServerConfig
from ui.server import background

HTML = {"Accept": "text/html"}
ADDRESS = re.compile(r'(?:href|src|action)="([^"]+)"')
IMPORT = re.compile(r'^import [^"]*"([^"]+)";', re.MULTILINE)


@pytest.fixture(scope="module", params=PROXIES)
def behind(
    request: pytest.FixtureRequest, templates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """The proxy before a server without Gradio's pages."""
    folder = tmp_path_factory.mktemp(request.param)
    settings = ServerConfig(port=0, desks=False, trusted_proxies=("127.0.0.1",))
    for workspace in copied(templates / "furnished", folder / "workspace"):
        with (
            background(workspace, settings) as where,
            proxy(request.param, folder / "proxy", where.url.removeprefix("http://")) as running,
        ):
            yield running


def client_at(base: str) -> httpx.Client:
    """A client that sends what a browser's page at that address sends."""
    parts = urlsplit(base)
    origin = {"Origin": f"{parts.scheme}://{parts.netloc}"}
    return httpx.Client(verify=unverified(), headers=origin, timeout=60, follow_redirects=False)


def sign_in(client: httpx.Client, base: str, name: str) -> httpx.Response:
    page = client.get(f"{base}/login", headers=HTML)
    token = re.search(r'name="form_token" value="([^"]+)"', page.text)
    assert token, page.text
    form = {"name": name, "password": PASSWORD, "form_token": token[1], "next": "/curate"}
    return client.post(f"{base}/login", data=form)


def everything_on(client: httpx.Client, url: str) -> set[str]:
    """All addresses that a page names, and the modules that its scripts import; each is answered."""
    page = client.get(url, headers=HTML)
    assert page.status_code == 200, url
    found, waiting = {url}, {urljoin(url, one) for one in ADDRESS.findall(page.text)}
    while waiting:
        address = waiting.pop()
        if address in found or "#" in address:
            continue
        found.add(address)
        answer = client.get(address)
        assert answer.status_code in (200, 303), f"{answer.status_code} for {address}"
        if address.endswith(".js"):
            waiting |= {urljoin(address, one) for one in IMPORT.findall(answer.text)}
    return found


def test_pages_forms_and_scripts_are_under_every_address(behind: Proxy) -> None:
    for base in behind.bases:
        with client_at(base) as client:
            away = client.get(f"{base}/curate", headers=HTML)
            assert urljoin(base, away.headers["location"]) == f"{base}/login?next=%2Fcurate"
            entered = sign_in(client, base, "curator")
            assert urljoin(base, entered.headers["location"]) == f"{base}/curate", entered.text
            assert ("Secure" in entered.headers["set-cookie"]) == base.startswith("https")
            found = everything_on(client, f"{base}/curate")
            assert len(found) > 15 and all(one.startswith(base + "/") for one in found)
            session = client.get(f"{base}/api/session").json()
            csrf = {"X-Clinic-CSRF": session["csrf"]}
            view = {"name": base, "query": {}, "shared": False}
            assert client.post(f"{base}/api/curate/views", json=view, headers=csrf).status_code == 200
            foreign = csrf | {"Origin": "https://evil.example"}
            assert client.post(f"{base}/api/curate/views", json=view, headers=foreign).status_code == 403
            assert client.post(f"{base}/api/logout", headers=csrf).status_code == 200
            assert client.get(f"{base}/api/session").status_code == 401


def test_clinics_on_one_host_do_not_sign_each_other_out(behind: Proxy) -> None:
    top, below = behind.bases[2:]
    with client_at(top) as browser:  # one jar for both
        for base, name in ((top, "curator"), (below, "annotator")):
            assert sign_in(browser, base, name).status_code == 303
        assert [browser.get(f"{base}/api/session").json()["name"] for base in (top, below)] == [
            "curator",
            "annotator",
        ]
        csrf = {"X-Clinic-CSRF": browser.get(f"{below}/api/session").json()["csrf"]}
        assert browser.post(f"{below}/api/logout", headers=csrf).status_code == 200
        assert browser.get(f"{top}/api/session").status_code == 200


def test_headers_that_a_browser_forges_reach_nobody(behind: Proxy) -> None:
    forged = {
        "X-Forwarded-For": "203.0.113.5",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Prefix": "/evil",
        "X-Forwarded-Port": "666",
        "Forwarded": "host=evil.example;proto=https",
    }
    plain = behind.bases[0]
    with client_at(plain) as client:
        page = client.get(f"{plain}/login", headers=HTML | forged)
    assert page.status_code == 200
    assert "evil" not in page.text and "666" not in str(page.headers)
    assert "Secure" not in page.headers["set-cookie"]


@pytest.mark.proxies
@pytest.mark.browser
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("place", range(4))
def test_every_walk_passes(name: str, place: int, browser: Browser, templates: Path, tmp_path: Path) -> None:
    settings = ServerConfig(port=0, trusted_proxies=("127.0.0.1",))
    for workspace in copied(templates / "furnished", tmp_path / "workspace"):
        with (
            background(workspace, settings) as where,
            proxy(name, tmp_path / name, where.url.removeprefix("http://")) as running,
        ):
            walks = dict(walk(browser, running.bases[place]))
    assert len(walks) > 30 and not {what: problem for what, problem in walks.items() if problem}
