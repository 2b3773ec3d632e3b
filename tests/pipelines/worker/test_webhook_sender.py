"""Webhooks: what is said to whom, once, signed, bounded, and with nothing secret in any log."""

import hashlib
import hmac
import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from dataengine.errors import InputRefused
from dataengine.records import Endpoint, Job, Round, Study, now
from pipelines.services.endpoints import check_target
from pipelines.worker import webhook_sender
from pipelines.worker.webhook_sender import Webhooks, post
from storage.opening import create_workspace
from storage.workspace import Workspace

STAY = threading.Event()
ADDRESS = "https://hooks.example/services/s3cr3t"


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = create_workspace(tmp_path / "w")
    with made.catalog() as catalog:
        catalog.endpoints.add(
            Endpoint(id="h", kind="webhook", name="chat", location=ADDRESS, created=now() - 10)
        )
        catalog.rounds.add(Round(id="r1", recipe={}, stage="wait_for_labels", state="waiting"))
        catalog.rounds.add(Round(id="r2", recipe={}, stage="treat", state="failed"))
        for id, finished in (("r2.treat.1", now() - 100), ("r2.treat.2", now())):
            catalog.jobs.add(Job(id=id, kind="stage", state="failed", finished=finished))
        catalog.rounds.add(Round(id="r3", recipe={}, stage="judge", state="failed"))
        catalog.jobs.add(Job(id="r3.judge.1", kind="stage", state="failed", finished=now() - 100))
        catalog.studies.add(Study(id="s", name="hands", before_id="g", after_id="h", pairs=(("a", "b"),)))
        catalog.commit()
    yield made
    made.close()


def test_each_notice_is_sent_once_to_each_address(workspace: Workspace) -> None:
    sent: list[tuple[str, dict[str, object]]] = []
    hooks = Webhooks(workspace, lambda location, body: sent.append((location, json.loads(body))))
    assert hooks.sweep(STAY) == 3 and hooks.sweep(STAY) == 0
    assert Webhooks(workspace, hooks.send).sweep(STAY) == 0, "another worker does not repeat them"
    assert {location for location, _ in sent} == {ADDRESS}
    by_event = {str(said["event"]): said for _, said in sent}
    assert set(by_event) == {"people needed", "engineers needed", "raters needed"}
    assert by_event["people needed"]["subject"] == "r1"
    assert by_event["engineers needed"]["subject"] == "r2", "r3 failed before there was a webhook"
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="i", kind="webhook", name="mail", location=ADDRESS))
        catalog.commit()
    assert hooks.sweep(STAY) == 2, "a new address hears what is still open"


def test_what_does_not_arrive_is_tried_thrice_and_written_down_without_its_address(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook_sender, "PAUSE_SECONDS", 0.0)
    tried: list[str] = []

    def fails(location: str, body: bytes) -> None:
        tried.append(location)
        raise OSError(f"no route to {location}")

    with caplog.at_level(logging.WARNING):
        assert Webhooks(workspace, fails).sweep(threading.Event()) == 0
    assert len(tried) == 9
    with workspace.catalog(read_only=True) as catalog:
        events = catalog.audit.list()
    assert sum(event.action == "webhook.failed" for event in events) == 3
    told = caplog.text + str(events)
    assert "chat" in told and "s3cr3t" not in told and "hooks.example" not in told


@pytest.mark.parametrize(
    "location",
    ["http://example.org/x", "ftp://localhost/x", "https://", "http://10.0.0.1/", "nonsense", "http://[::"],
)
def test_addresses_that_may_not_be(location: str) -> None:
    with pytest.raises(InputRefused, match="https"):
        check_target(location)


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """A server on this machine that keeps what it gets; /away redirects, /slow hangs up late."""
    got: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(302 if self.path == "/away" else 204)
            if self.path == "/away":
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_a_real_request_is_json_signed_and_never_redirected(
    receiver: tuple[str, list[tuple[str, dict[str, str], bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, got = receiver
    monkeypatch.setenv(webhook_sender.SECRET, "key")
    post(f"{url}/here", b'{"event": "people needed"}')
    path, headers, body = got[0]
    assert path == "/here" and headers["Content-Type"] == "application/json"
    expected = hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert headers["X-Clinic-Signature"] == f"sha256={expected}"
    with pytest.raises(httpx.HTTPStatusError, match="302"):
        post(f"{url}/away", b"{}")
    assert [path for path, _, _ in got] == ["/here", "/away"]


def test_a_name_that_leads_inside_is_not_called(
    receiver: tuple[str, list[tuple[str, dict[str, str], bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, got = receiver
    inside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **named: inside)
    with pytest.raises(InputRefused, match="private or local"):
        post(url.replace("http://127.0.0.1", "https://hooks.example"), b"{}")
    assert not got


def test_no_log_holds_the_address_of_a_request(
    receiver: tuple[str, list[tuple[str, dict[str, str], bytes]]],
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, got = receiver
    monkeypatch.setattr(webhook_sender, "PAUSE_SECONDS", 0.0)
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    with workspace.catalog() as catalog:
        catalog.endpoints.remove("h")
        for id, path in (("i", "here?key=s3cr3t"), ("j", "away")):
            location = f"{url}/{path}"
            catalog.endpoints.add(Endpoint(id=id, kind="webhook", name=id, location=location, created=1.0))
        catalog.commit()
    with caplog.at_level(logging.INFO):
        arrived = Webhooks(workspace).sweep(threading.Event())
    assert arrived == 4 and {path for path, _, _ in got} == {"/here?key=s3cr3t", "/away"}
    assert "webhook j, try 3 of 3: 302" in caplog.text
    assert "s3cr3t" not in caplog.text and url not in caplog.text


def test_a_receiver_that_is_silent_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_sender, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(httpx.TimeoutException):
        post(f"http://127.0.0.1:{silent.getsockname()[1]}/", b"{}")
