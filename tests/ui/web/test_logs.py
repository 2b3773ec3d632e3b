"""Request ids and the server's log lines."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dataengine.errors import WorkspaceUnusable
from storage.workspace import Workspace
from tests.ui.conftest import ORIGIN
from ui.config import ServerConfig
from ui.server import create_app
from ui.web.logs import log_to, log_to_file, logger
from ui.web.middleware import id_of


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the server logs meanwhile."""
    stream = io.StringIO()
    log_to(stream)
    yield stream
    logger.handlers.clear()


@pytest.mark.parametrize(
    ("peer", "sent", "taken"),
    [
        ("127.0.0.1", "a1b2-from_the.proxy", True),
        ("203.0.113.9", "a1b2-from_the.proxy", False),
        ("127.0.0.1", "short", False),
        ("127.0.0.1", "x" * 65, False),
        ("127.0.0.1", 'a"injected":"line', False),
        ("127.0.0.1", "", False),
    ],
)
def test_a_request_id_is_taken_over_only_well_formed_and_from_this_machine(
    peer: str, sent: str, taken: bool
) -> None:
    scope = {"client": (peer, 1), "headers": [(b"x-request-id", sent.encode())]}
    id = id_of(scope)
    assert (id == sent) == taken and (taken or re.fullmatch("[0-9a-f]{16}", id))


def test_an_answer_its_error_and_its_lines_carry_one_id(
    bare: Workspace, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(bare, ServerConfig(desks=False))

    @app.get("/login/broken")
    def broken() -> None:
        raise RuntimeError("it broke with password=hunter2")

    @app.get("/login/refused")
    def refused() -> None:
        raise WorkspaceUnusable("the disk is gone")

    client = TestClient(app, base_url=ORIGIN, client=("127.0.0.1", 1), raise_server_exceptions=False)
    ids = set()
    for path, status in (("/login/broken", 500), ("/login/refused", 503), ("/api/annotate/next", 401)):
        answer = client.get(path)
        id = answer.headers["X-Request-ID"]
        assert answer.status_code == status and answer.json()["request"] == id
        ids.add(id)
    page = client.get("/login/refused", headers={"Accept": "text/html", "X-Request-ID": "from-the-proxy-1"})
    assert page.headers["X-Request-ID"] == "from-the-proxy-1" and "from-the-proxy-1" in page.text
    foreign = client.get("/", headers={"Host": "evil.example"})
    assert foreign.status_code == 421 and foreign.json()["request"] == foreign.headers["X-Request-ID"]
    found = logged(lines)
    assert ids <= {line["request"] for line in found} and "hunter2" not in str(found)
    of_one = [line["event"] for line in found if line["request"] == "from-the-proxy-1"]
    assert of_one == ["failed", "request"]
    assert {line["event"] for line in found if line.get("error")} == {"broken"}


def test_the_level_decides_what_is_logged(tmp_path: Path) -> None:
    log_to_file(tmp_path / "server.log", "error")
    logger.info("request")
    logger.error("failed")
    lines = (tmp_path / "server.log").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["failed"]
    log_to()
