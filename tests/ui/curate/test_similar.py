"""Similar images, the map and near-duplicates through the API."""

import base64
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from fastapi.testclient import TestClient

from dataengine.curation.appearance import APPEARANCE
from dataengine.records import Image
from storage.workspace import Workspace
from tests.ui.curate.test_routes import draw, ids_of

Clients = Callable[..., TestClient]


@pytest.fixture
def curator(client_of: Clients) -> TestClient:
    return client_of("curator")


def place(workspace: Workspace, map_id: str = "m1") -> dict[str, tuple[int, int]]:
    """Every image has features, and a place on a diagonal of the map."""
    ids = ids_of(workspace)
    places = np.array([(8_000 * at, 8_000 * at) for at in range(len(ids))], np.uint16)
    with workspace.catalog() as catalog:
        vectors = np.random.default_rng(0).integers(0, 127, (len(ids), 192)).astype(np.int8)
        catalog.features.add_many(APPEARANCE, dict(zip(ids, vectors, strict=True)))
        catalog.map_places.replace(map_id, ids, places)
        catalog.commit()
    return dict(zip(ids, map(tuple, places.tolist()), strict=True))


def test_more_like_this_offers_the_index_once_and_then_finds(
    curator: TestClient, workspace: Workspace
) -> None:
    """desks 3.8: no error before there are features, and no "100 %" for every hit afterwards."""
    ids = ids_of(workspace)
    first = curator.get(f"/api/curate/similar/{ids[0]}")
    assert first.status_code == 200
    assert first.json() == {
        "indexed": False,
        "unreadable": False,
        "missing": len(ids),
        "job": None,
        "cards": [],
    }
    job = curator.post("/api/curate/features").json()["job"]
    assert curator.post("/api/curate/features").json()["job"] == job
    assert curator.get(f"/api/curate/similar/{ids[0]}").json()["job"]["id"] == job
    with workspace.catalog() as catalog:
        catalog.jobs.request_cancel(job)
        catalog.commit()
    assert curator.get(f"/api/curate/similar/{ids[0]}").json()["job"] is None
    vectors = np.random.default_rng(0).integers(0, 120, (len(ids), 192)).astype(np.int8)
    vectors[3] = vectors[0]
    vectors[5, :150] = vectors[0, :150]
    with workspace.catalog() as catalog:
        catalog.features.add_many(APPEARANCE, dict(zip(ids, vectors, strict=True)))
        catalog.commit()
    found = curator.get(f"/api/curate/similar/{ids[0]}").json()
    cards = found["cards"]
    assert found["indexed"] and found["compared"] == len(ids) and found["missing"] == 0
    assert [card["id"] for card in cards[:2]] == [ids[3], ids[5]] and len(cards) == len(ids) - 1
    assert [card["rank"] for card in cards] == list(range(1, len(ids)))
    assert cards[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert 0.3 < cards[1]["similarity"] < 0.99 and abs(cards[4]["similarity"]) < 0.5
    assert curator.get("/api/curate/similar/none").status_code == 404


def test_an_image_that_cannot_be_read_is_said_to_be_so(curator: TestClient, workspace: Workspace) -> None:
    place(workspace)
    ids = ids_of(workspace)
    with workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql(f"DELETE FROM image_features WHERE image_id = '{ids[0]}'")
        catalog.features.add_many(APPEARANCE, {ids[0]: np.zeros(192, np.int8)})
        catalog.commit()
    found = curator.get(f"/api/curate/similar/{ids[0]}").json()
    assert not found["indexed"] and found["unreadable"] and found["missing"] == 0
    others = curator.get(f"/api/curate/similar/{ids[1]}").json()["cards"]
    assert ids[0] not in {card["id"] for card in others} and len(others) == len(ids) - 2


def test_the_map_shows_what_the_filter_holds(curator: TestClient, workspace: Workspace) -> None:
    """desks 3.15: an embedding map."""
    before = curator.get("/api/curate/map").json()
    assert before["map"] is None and before["new"] == 8 and before["job"] is None
    assert curator.get("/api/curate/map/points").json()["count"] == 0
    job = curator.post("/api/curate/map").json()["job"]
    assert curator.post("/api/curate/map").json()["job"] == job
    places = place(workspace)
    ids = list(places)
    draw(workspace, ids[2], "annotator", 5)
    assert curator.get("/api/curate/map").json()["new"] == 0
    found = curator.get("/api/curate/map/points?category=mugs").json()
    assert found["map"] == "m1" and found["count"] == 4 and found["categories"] == ["mugs"]
    all_of = curator.get("/api/curate/map/points").json()
    columns = {
        name: np.frombuffer(base64.b64decode(all_of[name]), "<u2" if name in "xy" else np.uint8)
        for name in ("x", "y", "category", "max", "status")
    }
    assert set(zip(columns["x"].tolist(), columns["y"].tolist(), strict=True)) == set(places.values())
    assert all(len(column) == all_of["count"] == 8 for column in columns.values())
    with workspace.catalog(read_only=True) as catalog:
        expected = {one.image_id: round(254 * one.max) for one in catalog.predictions.of("d1")}
    by_place = dict(zip(zip(columns["x"], columns["y"], strict=True), columns["max"], strict=True))
    assert {id: by_place[at] for id, at in places.items() if id in expected} == expected
    status = dict(zip(zip(columns["x"], columns["y"], strict=True), columns["status"], strict=True))
    waiting = {card["id"] for card in curator.get("/api/curate/images?state=waiting").json()["cards"]}
    assert {id for id, at in places.items() if status[at] == 1} == waiting and len(waiting) == 6
    at = places[ids[2]]
    here = curator.get(f"/api/curate/map/at?x={at[0]}&y={at[1]}").json()["images"]
    assert [one["id"] for one in here] == [ids[2]]


def test_a_lasso_filters_the_grid_and_its_count(curator: TestClient, workspace: Workspace) -> None:
    places = place(workspace)
    lasso = "m1:0,0,20000,0,20000,20000,0,20000"
    inside = {id for id, (x, _) in places.items() if x < 20_000}
    page = curator.get(f"/api/curate/images?sort=newest&lasso={lasso}").json()
    assert {card["id"] for card in page["cards"]} == inside and 0 < len(inside) < 8
    assert curator.get(f"/api/curate/count?lasso={lasso}&sort=newest").json()["count"] == len(inside)
    far = ",".join(f"{x},{y}" for x, y in [(0, 0), (65_535, 0), (65_535, 65_535), (0, 65_535)] * 25)
    assert len(curator.get(f"/api/curate/images?sort=newest&lasso=m1:{far}").json()["cards"]) <= 8
    for bad in ("m1:1,2", "m1:" + "1," * 1000 + "1", "m1:a,b,c,d,e,f"):
        answer = curator.get(f"/api/curate/images?lasso={bad}")
        assert answer.status_code == 422 and "lasso" in answer.text
    place(workspace, "m2")
    outdated = curator.get(f"/api/curate/images?lasso={lasso}")
    assert outdated.status_code == 404 and "draw it again" in outdated.json()["error"]


def twins(workspace: Workspace) -> list[str]:
    """Three imported images of one group of near-duplicates, the second the largest; one image alone."""
    with workspace.catalog() as catalog:
        some = catalog.images.find()[0]
        for at, group in enumerate(["look:" + "0" * 16] * 3 + ["look:" + "f" * 16]):
            side = 128 if at == 1 else 64
            made: Image = replace(
                some, id=f"twin{at}", group=group, height=side, source="imported", round_id=None, seed=at
            )
            catalog.images.add_many([made])
        catalog.commit()
    return [f"twin{at}" for at in range(3)]


def test_near_duplicates_are_listed_and_erased(
    curator: TestClient, client_of: Clients, workspace: Workspace
) -> None:
    """desks 3.15: a view of what the import found to look alike."""
    assert curator.get("/api/curate/duplicates").json() == {
        "groups": [],
        "after": None,
        "total": 0,
        "images": 0,
    }
    ids = twins(workspace)
    found = curator.get("/api/curate/duplicates").json()
    assert (found["total"], found["images"], found["after"]) == (1, 3, None)
    (group,) = found["groups"]
    assert [card["id"] for card in group["cards"]] == [ids[1], ids[0], ids[2]] and group["count"] == 3
    body: dict[str, object] = {"chosen": {"ids": [ids[0], ids[2]]}}
    assert client_of("engineer").post("/api/curate/selected/erasure", json=body).status_code == 403
    assert curator.post("/api/curate/selected/erasure", json=body).json()["images"] == 2
    assert curator.get("/api/curate/duplicates").json()["total"] == 1
    assert curator.post("/api/curate/selected/erase", json=body | {"expected": 2}).json()["images"] == 2
    assert curator.get("/api/curate/duplicates").json()["total"] == 0
    assert curator.get(f"/api/curate/images/{ids[1]}").status_code == 200
    assert curator.get("/api/curate/duplicates?after=nonsense").status_code == 422


def test_an_image_names_every_detector_and_which_has_looked(
    curator: TestClient, workspace: Workspace
) -> None:
    """desks 3.2, 3.12: "never looked at" is told apart from "nothing suspected"."""
    with workspace.catalog() as catalog:
        champion = catalog.detectors.get("d1")
        catalog.detectors.add(
            replace(champion, id="d2", name="second doctor", role="candidate", created=champion.created + 1)
        )
        catalog.commit()
    image = ids_of(workspace)[0]
    shown = curator.get(f"/api/curate/images/{image}").json()["detectors"]
    assert [(one["id"], one["champion"], one["looked"]) for one in shown] == [
        ("d1", True, True),
        ("d2", False, False),
    ]
    assert 0 <= shown[0]["max"] <= 1 and shown[1]["max"] is None and 0 < shown[0]["threshold"] < 1
