"""A body is read after the gate has asked who sends it, within its path's limit and in time."""

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from storage.workspace import Workspace
from tests.bench.web_server import Server, server_process
from tests.ui.conftest import PASSWORD
from ui.config import ServerConfig
from ui.desks import DESKS
from ui.web.access import PLAIN_BODY, PUBLIC_BODY
from ui.web.desk import access_table

ROOT = Path(__file__).resolve().parents[3]
CROWD = 60
ANNOUNCED = 8 * 2**20 - 1
GROWTH = 30 * 2**20

Clients = Callable[..., TestClient]


@pytest.fixture
def server(workspace: Workspace) -> Iterator[Server]:
    with server_process(ROOT, workspace.path, "desks=false", "body_seconds=1") as found:
        deadline = time.monotonic() + 30
        while not answers(found) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield found


def answers(server: Server) -> bool:
    """Whether it listens yet: it says where before it does."""
    where = urlsplit(server.url)
    try:
        with socket.create_connection((where.hostname, where.port), timeout=5):
            return True
    except ConnectionError:
        return False


def resident(pid: int) -> int:
    """Bytes of memory that the process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def unfinished(
    stack: ExitStack, server: Server, path: str, sent: bytes, announced: int, *headers: str
) -> socket.socket:
    """A connection that announces more than it sends, as far as the server takes it."""
    where = urlsplit(server.url)
    found = stack.enter_context(socket.create_connection((where.hostname, where.port), timeout=5))
    lines = [f"POST {path} HTTP/1.1", f"Host: {where.netloc}", f"Content-Length: {announced}", *headers]
    found.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + sent[:1024])
    found.settimeout(0.5)
    with suppress(TimeoutError, ConnectionError):
        found.sendall(sent[1024:])
    return found


def first_line(connection: socket.socket) -> str:
    connection.settimeout(5)
    return connection.recv(65536).partition(b"\r\n")[0].decode()


def healthy(server: Server) -> bool:
    with urllib.request.urlopen(f"{server.url}/healthz", timeout=5) as answer:
        return json.load(answer) == {"status": "ok"}


def test_a_crowd_of_anonymous_unfinished_bodies_is_refused_unread(server: Server) -> None:
    assert healthy(server)
    before = resident(server.pid)
    with ExitStack() as stack:
        crowd = [
            unfinished(stack, server, "/api/annotate/draft", bytes(ANNOUNCED - 1), ANNOUNCED)
            for _ in range(CROWD)
        ]
        assert resident(server.pid) - before < GROWTH
        assert healthy(server)
        assert {first_line(one) for one in crowd} == {"HTTP/1.1 401 Unauthorized"}


def test_a_body_that_does_not_arrive_is_given_up(server: Server) -> None:
    with ExitStack() as stack:
        one = unfinished(stack, server, "/api/login", b"{", 100, "Content-Type: application/json")
        began = time.monotonic()
        assert first_line(one) == "HTTP/1.1 408 Request Timeout"
        assert time.monotonic() - began < 4
        while one.recv(1024):  # the rest of the response, until the connection is closed
            pass
    assert healthy(server)


def test_what_may_be_sent_without_signing_in_is_small(client_of: Clients) -> None:
    padded = {"name": "annotator", "password": PASSWORD, "more": " " * PUBLIC_BODY}
    assert client_of().post("/api/login", json=padded).status_code == 413
    big = b" " * (8 * 2**20 + 1)
    assert client_of().post("/api/annotate/submit", content=big).status_code == 401
    assert client_of("rater").post("/api/annotate/submit", content=big).status_code == 403


def test_only_the_paths_of_label_maps_take_large_bodies(client_of: Clients) -> None:
    client = client_of("annotator")
    body = b" " * (PLAIN_BODY + 1)
    assert client.post("/api/annotate/comments", content=body).status_code == 413
    assert client.post("/api/annotate/draft", content=body).status_code == 422
    access, largest = access_table(DESKS), ServerConfig().max_body_bytes
    assert access.body_limit("/api/annotate/draft", largest) == largest
    assert access.body_limit("/login", largest) == PUBLIC_BODY


def test_json_that_would_become_far_more_than_its_size_is_refused(client_of: Clients) -> None:
    client = client_of("annotator")
    for dense in (b"[" + b"[]," * 2_000_000 + b"[]]", b"[" * 4_000_000):
        answer = client.post("/api/annotate/submit", content=dense)
        assert answer.status_code == 413 and "are allowed" in answer.json()["error"]
