"""Connections that send nothing, too slowly or too much, and more of them than a server may hold."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import httpx
import pytest

from storage.workspace import Workspace
from ui.config import ServerConfig
from ui.server import background
from ui.web import connections
from ui.web.connections import KEPT_DESCRIPTORS, bounded_connections, most_connections

LIMIT = 6
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(bare: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Opens connections to a server that holds six, and waits half a second for headers."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr("ui.server.bounded_connections", lambda: bounded_connections(LIMIT))
    with ExitStack() as opened, background(bare, ServerConfig(port=0, desks=False)) as where:
        address = urlsplit(where.url)

        def connection() -> socket.socket:
            made = opened.enter_context(socket.create_connection((address.hostname, address.port), 20))
            return made

        yield connection


def closed(one: socket.socket) -> bool:
    """Whether the server closed the connection, after waiting for that or for an answer."""
    with suppress(ConnectionError):
        return one.recv(1) == b""
    return True


def answers(one: socket.socket, rest: bytes = REQUEST) -> bool:
    one.sendall(rest + b"\r\n")
    return one.recv(15) == b"HTTP/1.1 200 OK"


def test_headers_have_a_time_limit_and_idle_connections_too(connect: Connect) -> None:
    slow, silent, quick = connect(), connect(), connect()
    assert answers(quick) and answers(quick) is not None
    began = time.monotonic()
    slow.sendall(REQUEST)
    with suppress(ConnectionError):
        while time.monotonic() - began < 5:
            slow.sendall(b"X-A: b\r\n")
            time.sleep(0.05)
    assert time.monotonic() - began < 5, "headers that drip do not begin their time anew"
    assert closed(slow) and closed(silent)


def test_headers_have_a_size(connect: Connect) -> None:
    long, fitting = connect(), connect()
    with suppress(ConnectionError):
        for _ in range(80):
            long.sendall(b"GET / HTTP/1.1\r\nX: " if _ == 0 else b"a" * 1024)
    assert closed(long)
    assert answers(fitting, REQUEST + b"X: " + b"a" * 30_000 + b"\r\n")


def test_the_longest_silent_connection_gives_way(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 60.0)
    crowd = []
    for _ in range(LIMIT):
        crowd.append(connect())
        crowd[-1].sendall(b"GET /")
        time.sleep(0.02)
    assert answers(connect()), "a new one is answered"
    assert closed(crowd[0])
    crowd[-1].setblocking(False)
    with pytest.raises(BlockingIOError):
        crowd[-1].recv(1)


def test_the_limit_leaves_descriptors_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 2048))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: raised.append(limits))
    assert most_connections() == 2048 - KEPT_DESCRIPTORS and raised == [(2048, 2048)]
    monkeypatch.setattr(resource, "setrlimit", _refused)
    assert most_connections() == 1024 - KEPT_DESCRIPTORS


def _refused(what: int, limits: tuple[int, int]) -> None:
    raise ValueError("not allowed to raise maximum limit")


def test_the_oldest_unfinished_body_of_a_stranger_gives_way(
    bare: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.web.middleware.STRANGERS", 2)
    head = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nname"
    with ExitStack() as opened, background(bare, ServerConfig(port=0, desks=False)) as where:
        address = urlsplit(where.url)
        crowd = []
        for _ in range(3):
            made = opened.enter_context(socket.create_connection((address.hostname, address.port), 20))
            made.sendall(head)
            crowd.append(made)
            time.sleep(0.2)
        assert crowd[0].recv(12) == b"HTTP/1.1 408"
        whole = httpx.post(f"{where.url}/login", data={"name": "a", "password": "b"}, timeout=20)
        assert whole.status_code == 403, "the control: a body that arrives is read"
