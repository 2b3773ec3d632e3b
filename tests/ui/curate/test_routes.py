"""The curation API: filters and pages, asking people, reviewing, benchmarks, balance, agreement."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from fastapi.testclient import TestClient

from dataengine.masks import pack_label_map, unpack_label_map
from dataengine.records import DetectorVersion, Endpoint, Image, Label, now
from storage.accounts import create_user
from storage.workspace import Workspace
from tests.ui.conftest import PASSWORD, sign_in

Clients = Callable[..., TestClient]


def ids_of(workspace: Workspace) -> list[str]:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.images.ids()


def draw(workspace: Workspace, image: str, author: str, left: int | None, value: int = 1) -> Label:
    """A label with a square at column `left`; clean without one."""
    label_map = np.zeros((64, 64), np.uint8)
    if left is not None:
        label_map[20:40, left : left + 20] = value
    blob = None if left is None else workspace.blobs.put(pack_label_map(label_map))
    with workspace.catalog() as catalog:
        stored = catalog.labels.submit(
            Label(image_id=image, author=author, height=64, width=64, label_map=blob, clean=blob is None)
        )
        catalog.commit()
    return stored


def which(label: Label) -> dict[str, object]:
    return {"image": label.image_id, "author": label.author, "revision": label.revision}


@pytest.fixture
def curator(client_of: Clients) -> TestClient:
    return client_of("curator")


def test_pages_follow_a_key_and_keep_the_filter(curator: TestClient) -> None:
    seen: list[str] = []
    after: str | None = None
    while True:
        query: dict[str, str | float] = {"limit": 3, "sort": "max", "low": 0.2}
        if after is not None:
            query["after"] = after
        page = curator.get("/api/curate/images", params=query).json()
        seen += [card["id"] for card in page["cards"]]
        after = page["after"]
        if after is None:
            break
    assert len(seen) == len(set(seen)) == 8 == curator.get("/api/curate/count?low=0.2").json()["count"]
    hands = curator.get("/api/curate/images?category=hands&low=0.5").json()["cards"]
    assert {card["category"] for card in hands} == {"hands"} and all(card["max"] >= 0.5 for card in hands)
    assert curator.get("/api/curate/images?source=real").json() == {"cards": [], "after": None}
    assert {
        card["generator"] for card in curator.get("/api/curate/images?generator=base").json()["cards"]
    } == {"base"}


@pytest.mark.parametrize(
    "query", ["low=2", "state=odd", "sort=name", "after=x:y", "limit=0", "class=0", "unknown=1", "low=nan"]
)
def test_a_filter_that_makes_no_sense_is_refused(curator: TestClient, query: str) -> None:
    answer = curator.get(f"/api/curate/images?{query}")
    assert answer.status_code == 422 and answer.json()["error"]


def test_class_state_and_disagreement(curator: TestClient, workspace: Workspace) -> None:
    first, second, third, *_ = ids_of(workspace)
    draw(workspace, first, "annotator", 10, value=3)
    draw(workspace, first, "curator", 20)
    draw(workspace, second, "annotator", 10)
    draw(workspace, second, "curator", 10)
    draw(workspace, third, "annotator", None)

    def found(query: str) -> list[str]:
        return [card["id"] for card in curator.get(f"/api/curate/images?{query}").json()["cards"]]

    assert found("class=3") == [first] and set(found("class=1")) == {first, second}
    assert set(found("state=unreviewed")) == {first, second, third}
    disputed = curator.get("/api/curate/images?sort=disagreement").json()["cards"]
    assert [card["id"] for card in disputed[:2]] == [first, second]
    assert [card.get("disagreement") for card in disputed] == [pytest.approx(1 - 1 / 3), 0.0, *[None] * 6]


@pytest.mark.parametrize("sort", ["", "max", "disagreement", "newest", "oldest"])
def test_every_order_pages_through_every_image(curator: TestClient, workspace: Workspace, sort: str) -> None:
    """desks 3.1: without a filter "most uncertain" showed 432 of 3,612 images, "most disagreement" none."""
    ids = ids_of(workspace)
    for author in ("annotator", "curator"):
        draw(workspace, ids[5], author, 10)
    with workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql(
            "DELETE FROM predictions WHERE image_id IN (SELECT image_id FROM predictions ORDER BY 1 LIMIT 5)"
        )
        catalog.commit()
    seen: list[str] = []
    after: str | None = None
    for _ in range(9):
        query = {"limit": "3"} | ({"sort": sort} if sort else {}) | ({"after": after} if after else {})
        page = curator.get("/api/curate/images", params=query).json()
        seen += [card["id"] for card in page["cards"]]
        after = page["after"]
        if after is None:
            break
    assert sorted(seen) == sorted(ids)
    counted = curator.get("/api/curate/count", params={"sort": sort} if sort else {}).json()
    assert (counted["count"], counted["total"]) == (8, 8)


def test_the_queue_can_be_limited_to_peoples_labels(curator: TestClient, workspace: Workspace) -> None:
    """desks 3.9: 1,440 of 1,800 labels to review were the demo's own."""
    first, second, *_ = ids_of(workspace)
    draw(workspace, first, "annotator", 10)
    draw(workspace, second, "clinic", 10)
    with workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql("UPDATE labels SET source = 'simulated' WHERE author = 'clinic'")
        catalog.connection.exec_driver_sql("UPDATE labels SET round_id = 'r9' WHERE author = 'annotator'")
        catalog.commit()
    found = curator.get("/api/curate/reviews?by=people").json()
    assert [row["author"] for row in found["labels"]] == ["annotator"]
    assert found["counts"]["unreviewed"] == 1 and found["all"]["unreviewed"] == 2
    choices = curator.get("/api/curate/choices").json()
    assert choices["newest_round"] == "r9" and choices["label_rounds"] == ["r9"]


def test_a_draft_names_the_categories_it_lacks(curator: TestClient, workspace: Workspace) -> None:
    """desks 3.13."""
    with workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql("DELETE FROM queue_items")
        catalog.connection.exec_driver_sql("UPDATE predictions SET category = NULL WHERE category = 'mugs'")
        catalog.commit()
    body = {"name": "small", "per_stratum": 1, "opinions": 1, "real": 0, "seed": 0, "categories": ["hands"]}
    draft = curator.post("/api/curate/benchmarks", json=body).json()
    assert draft["missing"] == ["mugs"]


def test_the_clinics_prediction_of_another_image_carries_a_note(
    curator: TestClient, workspace: Workspace
) -> None:
    image = ids_of(workspace)[0]
    assert curator.get(f"/api/curate/images/{image}").json()["predictions"][0]["note"] == ""
    with workspace.catalog() as catalog:
        catalog.connection.exec_driver_sql("UPDATE detectors SET domain = 'clinic'")
        catalog.connection.exec_driver_sql("UPDATE images SET origin = 'photos/a.png', generator_id = NULL")
        catalog.commit()
    note = curator.get(f"/api/curate/images/{image}").json()["predictions"][0]["note"]
    assert "this image comes from elsewhere" in note


def test_an_images_story(curator: TestClient, workspace: Workspace) -> None:
    image = ids_of(workspace)[0]
    draw(workspace, image, "annotator", 5)
    told = curator.get(f"/api/curate/images/{image}").json()
    assert told["predictions"][0]["detector"] == "first doctor" and told["labels"][0]["author"] == "annotator"
    assert curator.get("/api/curate/images/none").status_code == 404


def test_while_the_champion_has_seen_nothing_the_newest_that_has_shows_the_hard_categories(
    curator: TestClient, workspace: Workspace
) -> None:
    with workspace.catalog() as catalog:
        old = catalog.detectors.champion()
        assert old
        for id, role in (("new", "candidate"), ("tutor", "teacher")):
            catalog.detectors.add(dataclasses.replace(old, id=id, name=id, role=role, created=now()))
        seen = catalog.predictions.of(old.id)[:2]
        catalog.predictions.add_many(dataclasses.replace(one, detector_id="tutor") for one in seen)
        catalog.detectors.promote("new", "test", "better")
        catalog.commit()
    report = curator.get("/api/curate/categories").json()
    assert report["detector"] == old.id and report["categories"]
    sent = curator.post("/api/curate/ask", json={"thresholds": {"mugs": 0}, "detector": old.id}).json()
    assert sent["sent"] > 0


def test_sliders_count_what_is_sent_and_only_takers_get_it(
    curator: TestClient, client_of: Clients, workspace: Workspace
) -> None:
    report = curator.get("/api/curate/categories").json()["categories"]
    mugs = next(row for row in report if row["category"] == "mugs")
    assert mugs["images"] == 4 and sum(row["askable"][0] for row in report if row["askable"]) == 2
    body = {"thresholds": {"mugs": 0.5}, "priority": 8, "people": ["curator"]}
    assert curator.post("/api/curate/ask", json=body).json()["sent"] == mugs["askable"][50] > 0
    again = curator.get("/api/curate/categories").json()["categories"]
    assert sum(sum(row["askable"]) for row in again) == 0
    reserved = {
        card["id"] for card in curator.get("/api/curate/images?state=waiting&category=mugs").json()["cards"]
    }
    mine = curator.get("/api/annotate/next").json()["image"]["id"]
    theirs = client_of("annotator").get("/api/annotate/next").json()["image"]["id"]
    with workspace.catalog(read_only=True) as catalog:
        assignees = catalog.assignees.of(reserved)
    assert mine in assignees and theirs not in assignees


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"people": ["nobody"]}, "there is no account 'nobody'"),
        ({"annotations_per_image": 2, "people": ["curator"]}, "2 annotators per image are required"),
        ({"opinions": 2, "people": ["curator"]}, "2 annotators per image are required"),
        ({"thresholds": {}}, "thresholds"),
        ({"thresholds": {"mugs": 1.5}}, "less than or equal to 1"),
        ({"more": 1}, "Extra inputs"),
    ],
)
def test_asking_nonsense_changes_nothing(
    curator: TestClient, workspace: Workspace, change: dict[str, object], words: str
) -> None:
    answer = curator.post("/api/curate/ask", json={"thresholds": {"mugs": 0.0}} | change)
    assert answer.status_code == 422 and words in answer.json()["error"]
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.queue.remaining() == 6


def test_a_returned_label_comes_back_to_its_author_with_the_note(
    curator: TestClient, client_of: Clients, workspace: Workspace
) -> None:
    image = ids_of(workspace)[0]
    label = draw(workspace, image, "annotator", 10)
    refused = curator.post("/api/curate/reviews", json={"labels": [which(label)], "verdict": "rejected"})
    assert refused.status_code == 422 and "note" in refused.json()["error"]
    verdict = {"labels": [which(label)], "verdict": "rejected", "note": "trace the thumb too"}
    assert curator.post("/api/curate/reviews", json=verdict).json() == {"judged": 1}
    annotator = client_of("annotator")
    task = annotator.get("/api/annotate/next").json()
    assert task["image"]["id"] == image
    said = annotator.get("/api/annotate/comments", params={"image": image}).json()
    assert "trace the thumb too" in str(said)
    assert curator.get(f"/api/curate/merged/{image}").status_code == 404
    newer = draw(workspace, image, "annotator", 12)
    stale = curator.post("/api/curate/reviews", json={"labels": [which(label)], "verdict": "accepted"})
    assert stale.status_code == 404 and "not the newest" in stale.json()["error"]
    curator.post("/api/curate/reviews", json={"labels": [which(newer)], "verdict": "accepted"})
    history = curator.get(f"/api/curate/images/{image}").json()["labels"]
    assert [(one["revision"], one["review"]["verdict"]) for one in history] == [
        (2, "accepted"),
        (1, "rejected"),
    ]
    with workspace.catalog(read_only=True) as catalog:
        assert len(catalog.audit.list(action="label.review", actor="curator")) == 2


def test_one_label_alone_replaces_the_others_and_bulk_verdicts_hold(
    curator: TestClient, workspace: Workspace
) -> None:
    first, second, *_ = ids_of(workspace)
    labels = [draw(workspace, first, "annotator", 10), draw(workspace, first, "curator", 30)]
    merged = curator.get(f"/api/curate/merged/{first}")
    assert merged.headers["x-opinions"] == "2" and sum(merged.content) == 0, "neither has a majority"
    body = {"labels": [which(labels[1])], "verdict": "accepted", "alone": True}
    curator.post("/api/curate/reviews", json=body)
    opinions = curator.get(f"/api/curate/reviews/{first}").json()["opinions"]
    assert {one["author"]: one["counts"] for one in opinions} == {"annotator": False, "curator": True}
    alone = np.frombuffer(curator.get(f"/api/curate/merged/{first}").content, np.uint8).reshape(64, 64)
    assert alone[20:40, 30:50].all() and alone.sum() == 400
    many = [which(draw(workspace, second, name, 3)) for name in ("annotator", "curator")]
    assert curator.post("/api/curate/reviews", json={"labels": many, "verdict": "accepted"}).json() == {
        "judged": 2
    }
    listed = curator.get("/api/curate/reviews?state=approved").json()
    assert len(listed["labels"]) == 4 and listed["counts"] == {"unreviewed": 0, "approved": 4, "returned": 0}


def test_an_image_that_somebody_holds_is_opened_all_the_same(curator: TestClient, client_of: Clients) -> None:
    held = client_of("annotator").get("/api/annotate/next").json()["image"]["id"]
    curator.post("/api/curate/open", json={"image": held}).raise_for_status()
    assert curator.get("/api/annotate/next", params={"prefer": held}).json()["image"]["id"] == held


def test_a_label_is_opened_in_the_canvas_with_the_annotators_map(
    curator: TestClient, workspace: Workspace
) -> None:
    image = ids_of(workspace)[-1]
    label = draw(workspace, image, "annotator", 10)
    opened = curator.post("/api/curate/open", json={"image": image, "author": "annotator"}).json()
    assert opened["url"] == f"/annotate?image={image}"
    task = curator.get("/api/annotate/next", params={"prefer": image}).json()
    assert task["image"]["id"] == image
    with workspace.catalog(read_only=True) as catalog:
        draft = catalog.drafts.get(image, "curator")
    assert draft is not None and draft.label_map == workspace.blobs.get(label.label_map or "")


def test_a_benchmark_from_draft_to_frozen(curator: TestClient, workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        free = [image for image in catalog.images.find() if image.category == "mugs"]
        catalog.queue.withdraw(free[0].id, "r1")
        catalog.images.add_many(
            [Image(id="photo", sha256=free[0].sha256, height=64, width=64, source="real", group="p")]
        )
        catalog.commit()
    made = curator.post("/api/curate/benchmarks", json={"per_stratum": 9, "opinions": 2}).json()
    assert made["version"] == 1 and made["state"] == "draft" and made["real"] == 1
    twice = curator.post("/api/curate/benchmarks", json={})
    assert twice.status_code == 409 and "still a draft" in twice.json()["error"]
    url = f"/api/curate/benchmarks/{made['id']}"
    items = [item for item in curator.get(url).json()["items"] if item["kind"] == "drawn"]
    assert {item["opinions"] for item in items} == {2}, "read, and answered, under the key of older pages"
    images = [item["image"] for item in items]
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.benchmarks.get(made["id"]).settings["opinions"] == 2
        assert {image.split for image in catalog.images.get_many([*images, "photo"])} == {"benchmark"}
        assert {item.image_id for item in catalog.queue.of_round("benchmark-1")} == set(images)
    for image in images:
        draw(workspace, image, "annotator", 10)
        draw(workspace, image, "curator", 10 if image != images[0] else 40)
    assert curator.post(f"{url}/freeze").status_code == 409
    assert curator.post(f"{url}/settle-agreed", json={}).json() == {"settled": len(images) - 1}
    top = curator.get(url).json()["items"][0]
    assert top["image"] == images[0] and top["disagreement"] == 1.0
    choice = {"image": images[0], "choice": "author", "author": "curator"}
    assert curator.post(f"{url}/settle", json=choice).status_code == 200
    frozen = curator.post(f"{url}/freeze").json()
    assert frozen["state"] == "frozen" and len(frozen["digest"]) == 64 and frozen["frozen_by"] == "curator"
    for what, body in (("settle", choice), ("settle-agreed", {}), ("freeze", None), ("discard", None)):
        answer = curator.post(f"{url}/{what}", json=body)
        assert answer.status_code == 409 or answer.json() == {"settled": 0}, what
    with workspace.catalog(read_only=True) as catalog:
        target = next(i.target for i in catalog.benchmarks.items(made["id"]) if i.image_id == images[0])
    assert unpack_label_map(workspace.blobs.get(target or ""), 64, 64)[20:40, 40:60].all()
    assert curator.post("/api/curate/benchmarks", json={}).status_code in (200, 422)


def test_a_discarded_draft_gives_its_images_to_the_next(curator: TestClient, workspace: Workspace) -> None:
    made = curator.post("/api/curate/benchmarks", json={"real": 0}).json()
    assert curator.post(f"/api/curate/benchmarks/{made['id']}/discard").status_code == 200
    again = curator.post("/api/curate/benchmarks", json={"real": 0}).json()
    assert again["images"] == made["images"]


def test_balance_and_real_photos(curator: TestClient, workspace: Workspace) -> None:
    first, second, *_ = ids_of(workspace)
    draw(workspace, first, "annotator", 10)
    draw(workspace, second, "annotator", None)
    report = curator.get("/api/curate/balance").json()
    total = [sum(row["next"][sign] for row in report["categories"]) for sign in ("positive", "negative")]
    assert total == [1, 1] and curator.get("/api/curate/balance?policy=approved").json()["categories"] == []
    with workspace.catalog() as catalog:
        catalog.endpoints.add(Endpoint(id="f", kind="folder", name="photos", location="/photos"))
        catalog.endpoints.add(Endpoint(id="v", kind="vqa", name="vqa", location="/vqa"))
        catalog.commit()
    job = curator.post("/api/curate/balance/real", json={"folder": "f", "licence": "CC0"}).json()["job"]
    with workspace.catalog(read_only=True) as catalog:
        asked = catalog.jobs.get(job)
    assert (
        asked.args == {"path": "/photos", "source": "real", "licence": "CC0"}
        and asked.requested_by == "curator"
    )
    assert curator.post("/api/curate/balance/real", json={"folder": "v"}).status_code == 422
    assert curator.post("/api/curate/balance/real", json={"folder": "/etc"}).status_code == 404


def test_agreement_is_for_curators(curator: TestClient, client_of: Clients, workspace: Workspace) -> None:
    first, second, *_ = ids_of(workspace)
    for image, left in ((first, 10), (second, 40)):
        draw(workspace, image, "annotator", 10)
        draw(workspace, image, "curator", left)
    report = curator.get("/api/curate/people/agreement").json()
    assert report["images"] == 2 and report["overall"]["iou"] == pytest.approx(0.5)
    assert 0 < report["overall"]["alpha"] < 1 and [one["name"] for one in report["people"]] == [
        "annotator",
        "curator",
    ]
    assert client_of("engineer").get("/api/curate/people/agreement").status_code == 403
    assert curator.get("/api/curate/people/gold").json() == {"images": [], "people": []}
    curator.post("/api/curate/people/comments", json={"image": first, "text": "one region, please"})
    assert curator.get("/api/curate/people/comments").json()["comments"][0]["text"] == "one region, please"


def test_gold_is_chosen_seen_and_dropped_by_curators_alone(
    curator: TestClient, client_of: Clients, workspace: Workspace
) -> None:
    image, other, *_ = ids_of(workspace)
    draw(workspace, image, "annotator", 10)
    returned = which(draw(workspace, other, "annotator", 10))
    curator.post("/api/curate/reviews", json={"labels": [returned], "verdict": "rejected", "note": "thumb"})
    refused = curator.post("/api/annotate/gold", json={"image": other, "author": "annotator"})
    assert refused.status_code == 409 and "returned" in refused.json()["error"]
    asked = {"image": image, "author": "annotator"}
    engineer = client_of("engineer")
    assert engineer.post("/api/annotate/gold", json=asked).status_code == 403
    assert curator.post("/api/annotate/gold", json=asked).json() == {"gold": True}
    for path in (f"/api/curate/images/{image}", f"/api/curate/reviews/{image}"):
        assert curator.get(path).json()["gold"] == {"chosen": True, "by": "curator"}
        assert engineer.get(path).json()["gold"] is None
    listed = curator.get("/api/curate/people/gold").json()["images"]
    assert listed == [{"id": image, "clean": False, "by": "curator"}]
    assert curator.delete(f"/api/annotate/gold/{image}").json() == {"dropped": True}
    assert curator.get(f"/api/curate/images/{image}").json()["gold"] == {"chosen": False, "by": ""}
    with workspace.catalog(read_only=True) as catalog:
        done = {event.action for event in catalog.audit.list()}
    assert {"gold.choose", "gold.drop"} <= done


def test_maps_travel_as_raw_bytes(curator: TestClient, workspace: Workspace) -> None:
    image = ids_of(workspace)[0]
    draw(workspace, image, "annotator", 10, value=2)
    answer = curator.get(f"/api/curate/labels/{image}", params={"author": "annotator"})
    found = np.frombuffer(answer.content, np.uint8).reshape(64, 64)
    assert answer.headers["x-height"] == "64" and found[20:40, 10:30].min() == 2 and found.sum() == 800
    assert curator.get(f"/api/curate/labels/{image}", params={"author": "nobody"}).status_code == 404


def test_choices_say_which_detectors_have_looked(curator: TestClient, workspace: Workspace) -> None:
    fresh = DetectorVersion(id="fresh", name="promoted just now", checkpoint="none", config={})
    with workspace.catalog() as catalog:
        catalog.detectors.add(fresh)
        catalog.commit()
    found = curator.get("/api/curate/choices").json()
    looked = {one["id"]: one["looked"] for one in found["detectors"]}
    assert looked.pop("fresh") is False and all(looked.values())


def test_choices_name_what_is_in_use(curator: TestClient) -> None:
    found = curator.get("/api/curate/choices").json()
    assert found["categories"] == ["hands", "mugs"] and found["detectors"][0]["champion"]
    assert found["detectors"][0]["looked"]
    assert found["annotators"] == ["annotator", "curator"] and len(found["classes"]) == 3


def test_a_return_note_is_read_by_its_author_and_curators(
    curator: TestClient, client_of: Clients, workspace: Workspace
) -> None:
    image = ids_of(workspace)[0]
    label = draw(workspace, image, "annotator", 10)
    draw(workspace, image, "ben", 12)
    with workspace.catalog() as catalog:
        create_user(catalog, "ben", PASSWORD, ["annotator"], "test")
        catalog.comments.add(image, "annotator", "for everybody who answered")
        catalog.commit()
    note = "dear annotator, trace the thumb too"
    verdict = {"labels": [which(label)], "verdict": "rejected", "note": note}
    curator.post("/api/curate/reviews", json=verdict).raise_for_status()
    engineer, author = client_of("engineer"), client_of("annotator")
    other = sign_in(client_of(), "ben")
    paths: dict[str, tuple[str, dict[str, str]]] = {
        "comments": ("/api/annotate/comments", {"image": image}),
        "detail": (f"/api/curate/images/{image}", {}),
        "opinions": (f"/api/curate/reviews/{image}", {}),
        "list": ("/api/curate/reviews", {"state": "any"}),
    }

    def reads(client: TestClient, what: str) -> bool:
        path, params = paths[what]
        answer = client.get(path, params=params)
        assert answer.status_code == 200
        return note in answer.text

    assert reads(author, "comments") and reads(curator, "comments") and not reads(other, "comments")
    assert "for everybody" in other.get("/api/annotate/comments", params={"image": image}).text
    for what in ("detail", "opinions", "list"):
        assert reads(curator, what) and not reads(engineer, what), what
    assert engineer.get(f"/api/curate/images/{image}").json()["comments"] == []
    assert other.get("/api/annotate/previous").json()["comments"] == 1


def test_engineers_judge_no_labels(curator: TestClient, client_of: Clients, workspace: Workspace) -> None:
    image = ids_of(workspace)[0]
    label = draw(workspace, image, "annotator", 10)
    engineer, admin = client_of("engineer"), client_of("admin")
    verdict = {"labels": [which(label)], "verdict": "accepted"}
    refused = engineer.post("/api/curate/reviews", json=verdict)
    assert refused.status_code == 403 and "needs the curator or admin role" in refused.json()["error"]
    with workspace.catalog(read_only=True) as catalog:
        assert not catalog.reviews.of_image(image)
    assert engineer.get("/api/curate/reviews").status_code == 200, "they may read"
    assert not engineer.get("/api/curate/choices").json()["may_judge"]
    assert admin.get("/api/curate/choices").json()["may_judge"]
    assert admin.post("/api/curate/reviews", json=verdict).json() == {"judged": 1}
