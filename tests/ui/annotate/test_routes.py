"""The annotation API: leases, revisions, bounded bodies, pixels and maps."""

import base64
import gzip
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from dataengine import masks
from dataengine.masks import pack_label_map, unpack_label_map
from dataengine.records import DetectorVersion, OperatingPoint, QueueItem
from pipelines.services.agreement import compute_map_statistics
from storage.workspace import Workspace

Clients = Callable[..., TestClient]


def painted(value: int = 1) -> np.ndarray:
    label_map = np.zeros((64, 64), np.uint8)
    label_map[10:20, 5:30] = value
    return label_map


def packed(label_map: np.ndarray) -> str:
    return base64.b64encode(pack_label_map(label_map)).decode()


def answer(task: dict, **changes: object) -> dict:
    body = {
        "lease": task["lease"],
        "image": task["image"]["id"],
        "revision": task["revision"],
        "clean": False,
    }
    return body | {"label_map": packed(painted())} | changes


def test_a_label_goes_from_lease_to_catalog(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = client.get("/api/annotate/next").json()
    assert task["image"]["height"] == task["image"]["width"] == 64
    assert task["classes"] == ["shape distortion", "unreasonable content", "watermark"]
    sent = client.post("/api/annotate/submit", json=answer(task, seconds=3.5))
    assert sent.json() == {"revision": 1}
    with workspace.catalog(read_only=True) as catalog:
        label = catalog.labels.latest(task["image"]["id"], "annotator")
    assert (
        label is not None
        and label.lead_seconds == 3.5
        and label.source == "person"
        and label.round_id == "r1"
    )
    stored = unpack_label_map(workspace.blobs.get(label.label_map or ""), 64, 64)
    assert np.array_equal(stored, painted())


def test_a_submitted_map_is_unpacked_once(
    client_of: Clients, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, inflated = client_of("annotator"), []
    inflate = masks._inflate
    monkeypatch.setattr(
        masks, "_inflate", lambda *given, **named: (inflated.append(1), inflate(*given, **named))[1]
    )
    task = client.get("/api/annotate/next").json()
    client.post("/api/annotate/submit", json=answer(task)).raise_for_status()
    compute_map_statistics(workspace)
    assert len(inflated) == 1, "checked, stored and counted by one reading of its runs"
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.label_map_statistics.missing(10) == []


def test_asking_again_gives_the_held_image_and_others_get_another(client_of: Clients) -> None:
    first, second = client_of("annotator"), client_of("curator")
    task = first.get("/api/annotate/next").json()
    again = first.get("/api/annotate/next").json()
    assert again["lease"] == task["lease"] and again["expires"] >= task["expires"]
    assert second.get("/api/annotate/next").json()["image"]["id"] != task["image"]["id"]


def test_the_queue_ends_with_204(client_of: Clients) -> None:
    client = client_of("annotator")
    counts = []
    while (response := client.get("/api/annotate/next")).status_code == 200:
        counts.append(response.json()["remaining"])
        client.post(
            "/api/annotate/submit", json=answer(response.json(), clean=True, label_map=None)
        ).raise_for_status()
    assert response.status_code == 204 and counts == [6, 5, 4, 3, 2, 1]


def test_a_clean_answer_may_carry_an_empty_map(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = client.get("/api/annotate/next").json()
    empty = packed(np.zeros((64, 64), np.uint8))
    assert (
        client.post("/api/annotate/submit", json=answer(task, clean=True, label_map=empty)).status_code == 200
    )
    with workspace.catalog(read_only=True) as catalog:
        label = catalog.labels.latest(task["image"]["id"])
    assert label is not None and label.clean and label.label_map is None


def test_skipping_and_releasing(client_of: Clients) -> None:
    client = client_of("annotator")
    task = client.get("/api/annotate/next").json()
    assert (
        client.post("/api/annotate/skip", json={"lease": task["lease"], "reason": "unsure"}).status_code
        == 200
    )
    other = client.get("/api/annotate/next").json()
    assert other["image"]["id"] != task["image"]["id"]
    assert client.post("/api/annotate/release", json={"lease": other["lease"]}).json() == {"released": True}
    assert client_of("curator").get("/api/annotate/next").json()["image"]["id"] == task["image"]["id"]


def test_a_lease_of_somebody_else_and_a_stale_revision_conflict(client_of: Clients) -> None:
    mine, theirs = client_of("annotator"), client_of("curator")
    task = mine.get("/api/annotate/next").json()
    assert theirs.post("/api/annotate/submit", json=answer(task)).status_code == 409
    assert theirs.post("/api/annotate/skip", json={"lease": task["lease"]}).status_code == 409
    assert mine.post("/api/annotate/submit", json=answer(task, revision=3)).status_code == 409
    assert mine.post("/api/annotate/submit", json=answer(task)).status_code == 200


def test_a_reply_lost_on_the_way_can_be_asked_for_again(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = client.get("/api/annotate/next").json()
    replies = [client.post("/api/annotate/submit", json=answer(task)).json() for _ in range(2)]
    assert replies == [{"revision": 1}, {"revision": 1}]
    with workspace.catalog(read_only=True) as catalog:
        assert len(catalog.labels.history(task["image"]["id"])) == 1


BOMB = base64.b64encode(zlib.compress(b"\x01\x00" * 5_000_000)).decode()


@pytest.mark.parametrize(
    "changes",
    [
        {"label_map": None},
        {"label_map": "not base64!"},
        {"label_map": packed(np.zeros((64, 64), np.uint8))},
        {"label_map": packed(np.ones((32, 32), np.uint8))},
        {"label_map": packed(painted(9))},
        {"label_map": packed(painted()), "clean": True},
        {"label_map": BOMB},
        {"revision": -1},
        {"seconds": "inf"},
        {"lease": ""},
        {"unknown": 1},
    ],
    ids=range(11),
)
def test_an_answer_that_cannot_be_is_refused(client_of: Clients, workspace: Workspace, changes: dict) -> None:
    client = client_of("annotator")
    task = client.get("/api/annotate/next").json()
    refused = client.post("/api/annotate/submit", json=answer(task, **changes))
    assert refused.status_code == 422 and refused.json()["error"]
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.labels.latest(task["image"]["id"]) is None


def test_pixels_are_the_stored_bytes_and_cached_for_ever(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = client.get("/api/annotate/next").json()
    got = client.get(task["image"]["url"])
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(task["image"]["id"])
    assert got.content == workspace.blobs.get(image.sha256)
    assert got.headers["content-type"] == "image/png" and "immutable" in got.headers["cache-control"]
    again = client.get(task["image"]["url"], headers={"If-None-Match": got.headers["etag"]})
    assert again.status_code == 304 and not again.content


def test_the_map_is_raw_bytes_with_its_size(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = client.get("/api/annotate/next").json()
    assert task["map"]["detector"] == "first doctor"
    with client.stream("GET", task["map"]["url"]) as response:
        sent = b"".join(response.iter_raw())
    height, width = int(response.headers["x-height"]), int(response.headers["x-width"])
    with workspace.catalog(read_only=True) as catalog:
        prediction = catalog.predictions.get(task["image"]["id"], "d1")
    assert prediction is not None and prediction.map_ref is not None
    shown = np.frombuffer(gzip.decompress(sent), np.uint8).reshape(height, width)
    assert np.array_equal(shown, workspace.maps.get(prediction.map_ref))


def test_suggestions_stay_those_of_the_detector_that_sent_the_image(
    client_of: Clients, workspace: Workspace
) -> None:
    client = client_of("annotator")
    first = client.get("/api/annotate/next").json()
    image = first["image"]["id"]
    assert first["map"]["threshold"] == 0.5
    with workspace.catalog() as catalog:
        point = OperatingPoint(flagged=0.2, component=0.125, rule="f2")
        catalog.detectors.add(DetectorVersion(id="d2", name="second", checkpoint="c", operating_point=point))
        known = catalog.predictions.get(image, "d1")
        assert known is not None
        catalog.predictions.add_many([replace(known, detector_id="d2")])
        catalog.detectors.promote("d2", "root", "better")
        catalog.commit()
    after = client.get("/api/annotate/next", params={"prefer": image}).json()["map"]
    assert (after["detector"], after["threshold"]) == ("first doctor", 0.5)
    client.post("/api/annotate/submit", json=answer(first))
    assert client.get("/api/annotate/previous").json()["map"]["detector"] == "first doctor"
    with workspace.catalog() as catalog:
        assert catalog.labels.latest(image, "annotator").detector_id == "d1"  # type: ignore[union-attr]
        catalog.queue.add_many([QueueItem(image_id=image, round_id="again", priority=99, detector_id="d2")])
        catalog.commit()
    again = client_of("curator").get("/api/annotate/next").json()
    assert again["image"]["id"] == image
    assert (again["map"]["detector"], again["map"]["threshold"]) == ("second", 0.125)


def test_without_a_map_of_the_sender_the_champions_is_shown(client_of: Clients, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        image = catalog.queue.of_round("r1")[0].image_id
        item = QueueItem(image_id=image, round_id="r9", priority=99, detector_id="gone")
        catalog.queue.add_many([item])
        catalog.commit()
    task = client_of("annotator").get("/api/annotate/next").json()
    assert task["image"]["id"] == image and task["map"]["detector"] == "first doctor"


def test_what_is_not_there_is_404(client_of: Clients) -> None:
    client = client_of("annotator")
    image = client.get("/api/annotate/next").json()["image"]["id"]
    for path in ("/api/images/nope/pixels", "/api/images/nope/map", f"/api/images/{image}/map?detector=nope"):
        assert client.get(path).status_code == 404


def test_simulated_people_say_so(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = client.get("/api/annotate/next").json()
    client.post("/api/annotate/submit", json=answer(task, simulated=True)).raise_for_status()
    with workspace.catalog(read_only=True) as catalog:
        label = catalog.labels.latest(task["image"]["id"])
    assert label is not None and label.source == "simulated"
