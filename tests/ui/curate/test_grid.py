"""The curation API: counts, facets, search, selections, views, and what the grid says of predictions."""

import dataclasses
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from dataengine.records import DetectorVersion
from storage.workspace import Workspace
from tests.ui.curate.test_routes import curator, draw, ids_of

__all__ = ["curator"]

Clients = Callable[..., TestClient]


def test_counts_say_what_is_left_out_and_facets_what_each_filter_would_show(
    curator: TestClient, workspace: Workspace
) -> None:
    """desks 3.1, 3.15."""
    with workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql(
            "UPDATE images SET status = 'refused' WHERE prompt LIKE '%number 3'"
        )
        catalog.commit()
    counted = curator.get("/api/curate/count?category=hands").json()
    assert (counted["count"], counted["total"], counted["hidden"]) == (4, 6, {"injected": 0, "refused": 2})
    facets = curator.get("/api/curate/facets?category=hands").json()
    assert facets["category"] == {"hands": 4, "mugs": 2} and facets["generator"] == {"base": 2, "treated": 2}
    assert facets["state"]["waiting"] == 4 and facets["state"]["returned"] == facets["class"]["1"] == 0
    assert facets["tag"] == {}


def test_an_image_that_no_champion_has_predicted_says_by_whom_or_that_nobody_has(
    curator: TestClient, workspace: Workspace
) -> None:
    """desks 3.2: "nothing suspected" and "never looked at" looked the same."""
    first, second, *_ = ids_of(workspace)
    with workspace.catalog() as catalog:
        known = catalog.predictions.get(first, "d1")
        assert known is not None
        catalog.detectors.add(DetectorVersion(id="d2", name="second", checkpoint="1" * 64))
        catalog.predictions.add_many([dataclasses.replace(known, detector_id="d2", max=0.75)])
        catalog.connection.exec_driver_sql("DELETE FROM predictions WHERE detector_id = 'd1'")
        catalog.commit()
    draw(workspace, first, "annotator", 10)
    cards = {card["id"]: card for card in curator.get("/api/curate/images?sort=newest").json()["cards"]}
    assert (cards[first]["detector"], cards[first]["max"], cards[first]["map"]) == ("d2", 0.75, True)
    assert cards[second]["detector"] is cards[second]["max"] is None and cards[second]["map"] is False
    predicted = curator.get(f"/api/curate/reviews/{first}").json()["predicted"]
    assert predicted == {"detector": "d2", "name": "second", "map": True, "max": 0.75}
    assert curator.get(f"/api/curate/reviews/{second}").json()["predicted"] is None
    assert curator.get(f"/api/curate/images/{second}").json()["detector"] is None


def test_search_and_tags_are_filters(curator: TestClient, workspace: Workspace) -> None:
    """desks 3.4."""
    found = curator.get("/api/curate/images", params={"search": '"number 2" hand -glove'}).json()["cards"]
    assert {card["prompt"] for card in found} == {"a drawn hand, number 2"} and len(found) == 2
    for garbage in ('"', "-", "a AND (", "\x00", "*"):
        assert curator.get("/api/curate/images", params={"search": garbage}).status_code == 200
    refused = curator.get("/api/curate/images", params={"search": "x" * 401})
    assert refused.status_code == 422
    chosen = {"images": {"search": "number 2"}}
    done = curator.post("/api/curate/selected/tag", json={"chosen": chosen, "add": ["to check"]})
    assert done.json() == {"images": 2, "added": 2, "removed": 0}
    tagged = curator.get("/api/curate/images?tag=to+check").json()["cards"]
    assert {card["id"] for card in tagged} == {card["id"] for card in found}
    assert {tuple(card["tags"]) for card in tagged} == {("to check",)}
    assert curator.get("/api/curate/choices").json()["tags"] == ["to check"]


@pytest.mark.parametrize(
    "body",
    [
        {"chosen": {"images": {}}, "add": ["x" * 10_000]},
        {"chosen": {}, "add": ["x"]},
        {"chosen": {"ids": ["a"], "images": {}}, "add": ["x"]},
        {"chosen": {"ids": ["a" * 200]}, "add": ["x"]},
        {"chosen": {"images": {"colour": "red"}}, "add": ["x"]},
        {"chosen": {"images": {}}, "add": ["x"] * 30},
        {"chosen": {"images": {}}},
    ],
)
def test_a_selection_that_makes_no_sense_is_one_sentence(
    curator: TestClient, body: dict[str, object]
) -> None:
    """desks 3.3."""
    answer = curator.post("/api/curate/selected/tag", json=body)
    assert answer.status_code == 422 and 0 < len(answer.json()["error"]) < 300


def test_engineers_erase_nothing_and_see_no_pilot(client_of: Clients, workspace: Workspace) -> None:
    engineer, chosen = client_of("engineer"), {"images": {}}
    for path, more in (("selected/erasure", {}), ("selected/erase", {"expected": 8})):
        assert engineer.post(f"/api/curate/{path}", json={"chosen": chosen, **more}).status_code == 403
    assert engineer.get("/api/curate/pilots").status_code == 403
    assert len(ids_of(workspace)) == 8


def test_views_and_pilots_over_http(curator: TestClient) -> None:
    saved = curator.post("/api/curate/views", json={"name": "mugs", "query": {"category": "mugs"}}).json()
    view = saved["views"][0]
    assert view["query"] == {"category": "mugs"} and curator.get("/api/curate/views").json()["views"] == [
        view
    ]
    renamed = curator.post(f"/api/curate/views/{view['id']}", json={"name": "cups", "shared": True}).json()
    assert renamed["views"][0]["name"] == "cups"
    assert curator.delete(f"/api/curate/views/{view['id']}").json() == {"views": []}
    body = {"chosen": {"images": {"category": "mugs"}}, "images": 2, "people": ["annotator"]}
    made = curator.post("/api/curate/pilots", json=body).json()
    report = curator.get(f"/api/curate/pilots/{made['id']}?target=50").json()
    assert (report["images"], report["wanted"], report["target"], report["plan"]) == (2, 2, 50, None)
    assert curator.get(f"/api/curate/pilots/{made['id']}?target=0").status_code == 422


def test_the_champion_can_be_asked_to_look(curator: TestClient, workspace: Workspace) -> None:
    """desks 3.10: "the next round does that", and there was no button."""
    job = curator.post("/api/curate/categories/diagnose").json()["job"]
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.jobs.get(job).kind == "diagnose"


def test_generators_have_names(curator: TestClient, workspace: Workspace) -> None:
    """desks 3.7: filters and the large view showed raw ids."""
    found = curator.get("/api/curate/choices").json()["generators"]
    assert found == [{"id": "base", "name": "tiny flux"}, {"id": "treated", "name": "treated flux"}]
    image = curator.get("/api/curate/images?generator=treated").json()["cards"][0]["id"]
    assert curator.get(f"/api/curate/images/{image}").json()["generator"] == "treated flux"
    with workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql("UPDATE generators SET name = 'flux'")
        catalog.commit()
    names = [one["name"] for one in curator.get("/api/curate/choices").json()["generators"]]
    assert names == ["flux (base)", "flux (treate)"]
