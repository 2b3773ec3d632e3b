"""A blob store that is silent or refuses: 503 with Retry-After, while everything else goes on."""

import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from storage.opening import create_workspace
from storage.workspace import Workspace
from tests import faulty_store
from tests.ui.conftest import furnish
from ui.config import ServerConfig
from ui.server import background

READERS = 60
"""More than the server has threads."""


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setenv("CLINIC_STORE_SECONDS", "2")
    workspace = create_workspace(tmp_path / "w", blob_url=faulty_store.url(tmp_path / "store"))
    yield workspace
    workspace.close()


@pytest.fixture
def client(remote: Workspace) -> Iterator[tuple[httpx.Client, list[str]]]:
    images = furnish(remote)
    with background(remote, ServerConfig(port=0, desks=False)) as where:
        limits = httpx.Limits(max_connections=READERS + 10)
        with httpx.Client(base_url=where.url, timeout=60, follow_redirects=True, limits=limits) as client:
            assert client.get(where.link.replace("/?", "/login?")).status_code == 200
            assert client.get(f"/api/images/{images[0]}/pixels").status_code == 200
            yield client, images


def test_a_refusing_store_is_answered_with_when_to_ask_again(
    client: tuple[httpx.Client, list[str]], tmp_path: Path
) -> None:
    asks, images = client
    with faulty_store.fault(tmp_path / "store", "refusing"):
        answer = asks.get(f"/api/images/{images[1]}/pixels")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert "blob store" in answer.json()["error"] and "Connection refused" in answer.json()["error"]
    assert asks.get(f"/api/images/{images[1]}/pixels").status_code == 200


def test_while_a_store_is_silent_all_that_needs_no_blob_answers(
    client: tuple[httpx.Client, list[str]], tmp_path: Path
) -> None:
    asks, images = client
    answers: list[httpx.Response] = []
    with faulty_store.fault(tmp_path / "store", "silent"):
        readers = [
            threading.Thread(
                target=lambda: answers.append(asks.get(f"/api/images/{images[2]}/pixels")), daemon=True
            )
            for _ in range(READERS)
        ]
        for reader in readers:
            reader.start()
        seconds = []
        while readers[-1].is_alive():
            began = time.monotonic()
            assert asks.get("/healthz").status_code == 200
            seconds.append(time.monotonic() - began)
            assert asks.get("/api/rounds").status_code == 200
            time.sleep(0.05)
        for reader in readers:
            reader.join(60)
    # The median: a busy machine delays one answer, a server without a free thread delays them all.
    assert len(seconds) > 3 and statistics.median(seconds) < 1
    assert {answer.status_code for answer in answers} == {503} and len(answers) == READERS
    assert all(answer.headers["Retry-After"] == "5" for answer in answers)
    assert asks.get(f"/api/images/{images[2]}/pixels").status_code == 200


def test_health_does_not_wait_for_the_database(
    client: tuple[httpx.Client, list[str]], remote: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks, _ = client
    released = threading.Event()
    monkeypatch.setattr(type(remote), "catalog", lambda *args, **options: released.wait(30))
    try:
        for _ in range(6):  # more than it has threads
            began = time.monotonic()
            answer = asks.get("/healthz")
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert "database" in answer.json()["error"]
            assert time.monotonic() - began < 2
    finally:
        released.set()
