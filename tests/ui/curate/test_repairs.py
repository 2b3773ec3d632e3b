"""The API of repairs: queued, shown, accepted or rejected once, and compared in a blind study."""

import dataclasses
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from storage.workspace import Workspace
from tests.ui.conftest import png
from tests.ui.curate.test_routes import ids_of

Clients = Callable[..., TestClient]


@pytest.fixture
def curator(client_of: Clients) -> TestClient:
    return client_of("curator")


def propose(workspace: Workspace, original: str, seed: int = 50) -> str:
    """A proposed repair of a catalog image."""
    sha256 = workspace.blobs.put(png(seed))
    with workspace.catalog() as catalog:
        image = catalog.images.get(original)
        region = {"verdict": "repaired", "before": 0.9, "after": 0.1, "draw": 0}
        repaired = dataclasses.replace(
            image,
            id=f"repair-of-{original}-{seed}",
            sha256=sha256,
            generator_id=None,
            seed=None,
            category=None,
            round_id=None,
            purpose="",
            source="repaired",
            status="proposed",
            settings={"repaired": {"image": original, "generator": "base", "regions": [region]}},
        )
        catalog.images.add_many([repaired])
        catalog.commit()
    return repaired.id


def test_a_repair_of_an_image_is_queued_and_shown(curator: TestClient, workspace: Workspace) -> None:
    first, second = ids_of(workspace)[:2]
    assert [one["id"] for one in curator.get("/api/curate/repairs/choices").json()["generators"]] == [
        "treated",
        "base",
    ]
    answer = curator.post("/api/curate/repairs", json={"image": first, "generator": "base"})
    assert answer.status_code == 200, answer.text
    found = curator.get(f"/api/curate/repairs?image={first}").json()
    assert found["job"]["id"] == answer.json()["job"] and found["job"]["open"] and found["repairs"] == []
    assert curator.get(f"/api/curate/repairs?image={second}").json()["job"] is None
    for body, status in (
        ({"image": "gone", "generator": "base"}, 404),
        ({"image": first, "generator": "gone"}, 404),
        ({"image": first, "generator": "base", "detector": "gone"}, 404),
        ({"image": first}, 422),
    ):
        assert curator.post("/api/curate/repairs", json=body).status_code == status, body
    assert curator.get("/api/curate/repairs?image=gone").status_code == 404


def test_a_proposed_repair_is_accepted_or_rejected_once(curator: TestClient, workspace: Workspace) -> None:
    original = ids_of(workspace)[0]
    accepted, rejected = propose(workspace, original), propose(workspace, original, 51)
    before = curator.get("/api/curate/count").json()["count"]
    shown = curator.get("/api/curate/repairs").json()
    assert {one["id"] for one in shown["repairs"]} == {accepted, rejected}
    assert (shown["repairs"][0]["original"], shown["repairs"][0]["before"]) == (original, 0.9)
    decide = "/api/curate/repairs/decide"
    assert curator.post(decide, json={"repairs": [accepted], "accept": True}).json() == {"decided": 1}
    assert curator.post(decide, json={"repairs": [rejected], "accept": False}).json() == {"decided": 1}
    assert curator.post(decide, json={"repairs": [rejected], "accept": True}).status_code == 409
    assert curator.post(decide, json={"repairs": [original], "accept": True}).status_code == 409
    assert curator.post(decide, json={"repairs": [], "accept": True}).status_code == 422
    assert curator.get("/api/curate/count?sort=newest").json()["count"] == before + 1
    cards = curator.get("/api/curate/images?source=repaired&sort=newest").json()["cards"]
    assert [card["id"] for card in cards] == [accepted]


def test_accepted_repairs_become_a_blind_study(client_of: Clients, workspace: Workspace) -> None:
    engineer, curator = client_of("engineer"), client_of("curator")
    assert engineer.post("/api/studies/repairs").status_code == 422
    original = ids_of(workspace)[0]
    repaired = propose(workspace, original)
    curator.post("/api/curate/repairs/decide", json={"repairs": [repaired], "accept": True})
    assert curator.post("/api/studies/repairs").status_code == 403
    assert curator.get("/api/curate/choices").json()["may_compare"] is False
    study = engineer.post("/api/studies/repairs").json()["id"]
    found = engineer.get(f"/api/studies/{study}").json()
    assert (found["before"], found["after"], found["pairs"]) == ("original", "repaired", 1)
    pair = client_of("rater").get(f"/api/study/{study}/next").json()
    assert "repair" not in str(pair).replace(original, "") and pair
