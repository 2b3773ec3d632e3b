"""What every request passes: host, origin, body size, headers; and the log that holds no secret."""

import base64
import hashlib
import io
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError
from sqlalchemy import text as sql

from pipelines.services.operation.logs import JsonFormatter, without_secrets
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN, PASSWORD, sign_in
from ui.config import ServerConfig
from ui.server import bound_socket, create_app, serve
from ui.web.logs import log_to, log_to_file, logger
from ui.web.middleware import FOREVER, HASHED, host_name, is_loopback
from ui.web.policy import GRADIO, GRADIO_HTML, PAGES, inline_sources
from ui.web.throttle import Throttle

Clients = Callable[..., TestClient]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example", "["]
)
def test_another_host_name_is_refused(client_of: Clients, host: str) -> None:
    assert client_of().get("/healthz", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost:7860", "127.0.0.1", "[::1]:7860", "LOCALHOST"])
def test_loopback_names_are_answered(client_of: Clients, host: str) -> None:
    assert client_of().get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost:7860"]
)
def test_a_foreign_origin_is_refused(client_of: Clients, origin: str) -> None:
    client = client_of("annotator")
    body = {"lease": "x"}
    assert client.post("/api/annotate/release", json=body, headers={"Origin": origin}).status_code == 403
    own = client.post("/api/annotate/release", json=body, headers={"Origin": "http://127.0.0.1:7860"})
    assert own.status_code == 200


def test_what_another_sites_page_embeds_is_refused_but_links_work(client_of: Clients) -> None:
    client = client_of("annotator")
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/annotate/next", headers=embedded).status_code == 403
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/annotate", headers=followed).status_code == 200
    assert client.post("/api/logout", headers=followed).status_code == 403


def test_bodies_are_bounded_whether_announced_or_not(client_of: Clients) -> None:
    client = client_of("annotator")
    big = b" " * (8 * 2**20 + 1)
    assert client.post("/api/annotate/submit", content=big).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(9):
            yield b" " * 2**20

    assert client.post("/api/annotate/submit", content=pieces()).status_code == 413
    lying = client.post("/api/annotate/submit", content=b"{}", headers={"Content-Length": "x"})
    assert lying.status_code == 413


def test_security_headers_are_on_every_answer(client_of: Clients) -> None:
    client = client_of("annotator")
    for path in ("/", "/annotate", "/api/session", "/static/annotate.js", "/login", "/nothing/here"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] == PAGES.header()
    assert "unsafe" not in PAGES.header() and "default-src 'none'" in PAGES.header()
    for policy in (PAGES, GRADIO, GRADIO_HTML):
        assert policy.header().endswith("frame-ancestors 'none'")
    assert client.get("/api/session").headers["cache-control"] == "no-store"


def script_sources(policy: str) -> list[str]:
    """What a policy allows scripts from."""
    return next(part for part in policy.split("; ") if part.startswith("script-src ")).split()[1:]


def test_the_admin_page_runs_its_own_inline_scripts_alone(full: tuple[FastAPI, Workspace]) -> None:
    client = TestClient(full[0], base_url=ORIGIN)
    sign_in(client, "admin")
    answer = client.get("/admin/", headers={"Accept": "text/html"})
    sources = script_sources(answer.headers["content-security-policy"])
    inline = [
        script.split(">", 1)[1]
        for script in answer.text.replace("</script>", "<script ").split("<script")
        if ">" in script and " src=" not in script.split(">", 1)[0]
    ]
    expected = {
        f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in inline
    }
    assert len(answer.content) == int(answer.headers["content-length"]) and "gradio_config" in answer.text
    hashed = {source for source in sources if source.startswith("'sha256-")}
    assert len(hashed) >= 4 and hashed <= expected
    assert set(sources) - hashed == {"'self'"}
    assert "unsafe-eval" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("page", "count"),
    [
        (b"<script>a</script><SCRIPT data-x>b</SCRIPT>", 2),
        (b'<script type="module" src="/x.js"></script>', 0),
        (b"<p>no script</p>", 0),
        (b"<script>one\nline</script><script SRC='x'></script>", 1),
    ],
)
def test_only_inline_scripts_are_hashed(page: bytes, count: int) -> None:
    assert len(inline_sources(page)) == count


def test_files_named_by_a_hash_are_kept_for_good(full: tuple[FastAPI, Workspace]) -> None:
    """Goal `admin_warm_s`: they were sent no-store, so that every load fetched all of them again."""
    client = TestClient(full[0], base_url=ORIGIN)
    sign_in(client, "admin")
    page = client.get("/admin/", headers={"Accept": "text/html"}).text
    script = re.search(r'src="\./(assets/index-[^"]+\.js)"', page)
    theme = re.search(r'"theme_hash": ?"([0-9a-f]+)"', page)
    assert script and theme
    for path in (script[1], f"theme.css?v={theme[1]}"):
        assert client.get(f"/admin/{path}").headers["cache-control"] == FOREVER, path
    for path in ("", "theme.css", "theme.css?v=", "config", "static/js/iframeResizer.contentWindow.min.js"):
        assert client.get(f"/admin/{path}").headers["cache-control"] == "no-store", path
    assert client.get("/admin/assets/absent-DphvyggB.js").headers["cache-control"] == "no-store"
    assert not HASHED.search("/admin/assets/index.js") and HASHED.search("/x/assets/Index-Akn07EZk2.js")


def test_embedding_is_a_setting(bare: Workspace) -> None:
    portal = "https://portal.example.org"
    client = TestClient(
        create_app(bare, ServerConfig(desks=False, embed_in=(portal, "http://intra:8080"))), base_url=ORIGIN
    )
    headers = client.get("/login").headers
    assert headers["content-security-policy"].endswith(f"frame-ancestors {portal} http://intra:8080")
    assert "x-frame-options" not in headers
    for wrong in ("portal.example.org", "https://a b", "https://x.org/path", "*", "'self'; script-src *"):
        with pytest.raises(ValidationError):
            ServerConfig(embed_in=(wrong,))


def test_own_pages_hold_no_inline_script_or_style(client_of: Clients) -> None:
    client = client_of("annotator")
    for path in ("/", "/annotate", "/login"):
        page = client.get(path, headers={"Accept": "text/html"}).text
        assert "<style" not in page and " style=" not in page and " on" + "click" not in page
        assert page.count("<script") == page.count('<script type="module" src="/static/')


def test_health_tells_nothing_but_health(client_of: Clients) -> None:
    assert client_of().get("/healthz").json() == {"status": "ok"}


def test_strangers_are_not_told_where_the_database_is(
    bare: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    client = TestClient(create_app(bare, ServerConfig(desks=False)), base_url=ORIGIN)
    assert client.get("/healthz").status_code == 200
    where = str(bare.path)
    bare.close()
    bare.catalog_file.rename(bare.path / "gone.sqlite")
    bare.catalog_file.mkdir()
    for path in ("/healthz", "/login", "/api/session"):
        answer = client.get(path, headers={"Cookie": "clinic_session_7860=x"})
        assert where not in answer.text and "catalog.sqlite" not in answer.text
    health = client.get("/healthz")
    assert health.status_code == 503 and "does not answer" in health.json()["error"]


def test_a_start_says_where_what_and_how_to_stop(
    bare: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """desks 1.7: one JSON line for each request went to the terminal, and nothing told how to stop."""
    monkeypatch.setattr("uvicorn.Server.run", lambda server, sockets: logger.info("request"))
    serve(bare, ServerConfig(port=0, desks=False, start_token="secret-of-the-link"))
    told, errors = capsys.readouterr()
    lines = told.splitlines()
    assert lines[0].startswith("Artifact Clinic: http://127.0.0.1:") and "token=secret" in lines[0]
    assert f"Workspace: {bare.path}" in lines and "Ctrl+C stops" in lines[-1] and len(lines) == 5
    assert errors == ""
    log = bare.path / "server.log"
    assert json.loads(log.read_text())["event"] == "request" and log.stat().st_mode & 0o777 == 0o600
    assert "secret-of-the-link" not in log.read_text()


def test_the_log_begins_anew_before_it_fills_a_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_file(tmp_path / "server.log", "info", 500, 3)
    for number in range(100):
        logger.info("request", extra={"path": f"/{number}"})
    logger.error("failed", extra={"path": "/last"})
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["server.log", *(f"server.log.{number}" for number in range(1, 4))]
    assert all(path.stat().st_size <= 500 and not path.stat().st_mode & 0o77 for path in tmp_path.iterdir())
    assert capsys.readouterr().err.count("\n") == 1
    log_to()


def test_each_request_is_one_json_line_without_secrets(client_of: Clients) -> None:
    stream = io.StringIO()
    log_to(stream)
    try:
        client = client_of("annotator")
        client.get("/login?token=verysecret")
        client.get("/api/annotate/next")
    finally:
        logger.handlers.clear()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["path"], line["status"]) for line in lines] == [
        ("/api/login", 200),
        ("/login", 403),
        ("/api/annotate/next", 200),
    ]
    assert lines[2]["person"] == "annotator" and lines[2]["ms"] >= 0
    for secret in (
        "verysecret",
        PASSWORD,
        client.headers["X-Clinic-CSRF"],
        client.cookies["clinic_session_7860"],
    ):
        assert secret not in stream.getvalue()


def test_values_named_like_secrets_never_reach_the_log() -> None:
    for text in (
        "token=abc123",
        "password: abc123",
        '"csrf": "abc123"',
        "Cookie: clinic=abc123",
        "api_key=abc123&x=1",
    ):
        assert "abc123" not in without_secrets(text)
    record = logging.makeLogRecord({"msg": "went to ?token=abc123", "detail": "secret=abc123"})
    assert "abc123" not in JsonFormatter().format(record)


def test_a_throttle_forgets_with_time_and_counts_for_all_servers(tmp_path: Path) -> None:
    workspace, moment = create_workspace(tmp_path), [1000.0]

    def throttle(name: str = "person") -> Throttle:
        return Throttle(workspace, name, limit=2, seconds=5, clock=lambda: moment[0])

    here, there = throttle(), throttle()
    here.fail("a")
    there.fail("a")
    assert here.blocked("a") and there.blocked("a") and not here.blocked("b")
    assert not throttle("address").blocked("a"), "the keys of another throttle are others"
    moment[0] += 6
    assert not here.blocked("a")
    assert here.attempt("a") and there.attempt("a") and not here.attempt("a")
    here.forgive("a")
    assert there.attempt("a") and not there.attempt("a")
    here.clear("a")
    assert not there.blocked("a")
    moment[0] += 4000
    here.fail("c")
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.connection.scalar(sql("SELECT count(*) FROM failed_attempts")) == 1


def test_attempts_at_the_same_time_do_not_pass_together(tmp_path: Path) -> None:
    throttle = Throttle(create_workspace(tmp_path), "person", limit=3)
    with ThreadPoolExecutor(12) as pool:
        passed = list(pool.map(lambda _: throttle.attempt("a"), range(24)))
    assert sum(passed) <= 3 and throttle.blocked("a")


def test_host_names_are_read_strictly() -> None:
    assert [host_name(text) for text in ("A.b:80", "[::1]:1", "x@y", "[bad")] == ["a.b", "::1", "y", ""]
    assert is_loopback("127.0.0.9") and is_loopback("LocalHost") and not is_loopback("0.0.0.0")


def test_answers_do_not_wait_for_the_readers_acknowledgement() -> None:
    """asyncio switches Nagle's algorithm off only on sockets that are named TCP."""
    with bound_socket(ServerConfig(port=0)) as listener:
        assert listener.proto == socket.IPPROTO_TCP
