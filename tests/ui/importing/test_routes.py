"""The API of the import page: who may use it, what it bounds."""

import hashlib
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from dataengine.bounds import UPLOAD_PIECE
from storage.workspace import Workspace
from tests.ui.conftest import png

Clients = Callable[..., TestClient]
BYTES = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def curator(client_of: Clients) -> TestClient:
    return client_of("curator")


def start(client: TestClient) -> str:
    return client.post("/api/import/uploads", json={"total": 1000}).json()["id"]


def send(client: TestClient, upload: str, body: bytes, **query: object) -> tuple[int, dict]:
    given = {"upload": upload, "name": "a.png", "size": len(body), **query}
    answer = client.post("/api/import/piece", params=given, content=body, headers=BYTES)  # type: ignore[arg-type]
    return answer.status_code, answer.json()


def test_a_file_arrives_in_pieces_and_is_imported(curator: TestClient, workspace: Workspace) -> None:
    upload, body = start(curator), png(40)
    sha256 = hashlib.sha256(body).hexdigest()
    whole = {"size": len(body), "sha256": sha256}
    assert send(curator, upload, body[:50], **whole) == (200, {"received": 50, "complete": False})
    status, answer = send(curator, upload, body[50:], **whole, offset=50)
    assert (status, answer) == (200, {"received": len(body), "complete": True})
    assert curator.get(f"/api/import/uploads/{upload}/files").json()["files"][0]["sha256"] == sha256
    assert curator.post(f"/api/import/uploads/{upload}/finish", json={}).json() == {"state": "importing"}
    import time

    deadline = time.monotonic() + 30
    while (seen := curator.get(f"/api/import/uploads/{upload}").json())["state"] != "done":
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    assert seen["result"]["added"] == 1
    assert curator.get(f"/api/import/uploads/{upload}/problems.csv").status_code == 404
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.images.find(sha256=sha256)[0].origin == "a.png"


def test_what_is_refused(client_of: Clients, curator: TestClient) -> None:
    upload, other = start(curator), client_of("engineer")
    assert send(other, upload, b"x")[0] == 403
    assert other.get("/api/import/uploads").json() == {"uploads": []}
    for id in ("upload-none", "..%2F..%2Fetc", "x" * 101):
        assert curator.get(f"/api/import/uploads/{id}").status_code in (404, 422)
    status, answer = send(curator, upload, bytes(UPLOAD_PIECE + 1))
    assert status == 422 and "a piece has at most" in answer["error"]
    for query in ({"part": "videos"}, {"offset": -1}, {"size": 2**50}, {"name": ""}, {"sha256": "0" * 65}):
        assert send(curator, upload, b"x", **query)[0] == 422, query
    assert send(curator, upload, b"x", name="../../a.png")[0] == 422
    assert send(curator, upload, b"x", size=5, offset=3)[0] == 409
    settings: tuple[dict, ...] = (
        {"validation": 2},
        {"format": "exe"},
        {"licence": "x" * 201},
        {"source": "stolen"},
        {"odd": 1},
        {"classes": {"a": "b" * 300}},
    )
    body = png(41)
    send(curator, upload, body)
    for one in settings[:1] + settings[2:]:
        assert curator.post(f"/api/import/uploads/{upload}/finish", json=one).status_code == 422, one
    assert curator.post(f"/api/import/uploads/{upload}/discard").status_code == 200
    assert curator.post(f"/api/import/uploads/{upload}/finish", json={}).status_code == 404
    assert curator.post("/api/import/demo").status_code == 409  # the workspace has images
    assert curator.post("/api/import/folder", json={"folder": "/etc"}).status_code == 404


def test_annotators_and_raters_import_nothing(client_of: Clients) -> None:
    for role in ("annotator", "rater"):
        client = client_of(role)
        assert client.get("/import").status_code == 403
        assert client.post("/api/import/uploads", json={}).status_code == 403
        assert send(client, "upload-x", b"x")[0] == 403
