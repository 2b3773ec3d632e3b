"""The annotation API beyond one label: drafts, keys, late answers, opinions, gold, triage, comments."""

from collections.abc import Callable

import numpy as np
import pytest
from fastapi.testclient import TestClient

from dataengine.errors import Conflict
from dataengine.records import GoldImage, Review, now
from pipelines.services import gold as gold_service
from pipelines.services.annotation import require_editable
from storage import tables
from storage.workspace import Workspace
from tests.ui.annotate.test_routes import answer, packed, painted

Clients = Callable[..., TestClient]


def taken(client: TestClient, **query: object) -> dict:
    response = client.get("/api/annotate/next", params=query)  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    return response.json()


def test_images_ahead_are_leased_besides_those_in_hand(client_of: Clients) -> None:
    client = client_of("annotator")
    first = taken(client)
    second = taken(client, besides=[first["image"]["id"]])
    third = taken(client, besides=[first["image"]["id"], second["image"]["id"]])
    assert len({task["image"]["id"] for task in (first, second, third)}) == 3
    again = taken(client, prefer=second["image"]["id"])
    assert again["lease"] == second["lease"]
    leases = [first["lease"], second["lease"], "nobody's"]
    assert client.post("/api/annotate/renew", json={"leases": leases}).json() == {"lost": ["nobody's"]}


def test_a_draft_comes_back_and_goes_with_the_answer(client_of: Clients) -> None:
    client = client_of("annotator")
    task = taken(client)
    body = {"image": task["image"]["id"], "label_map": packed(painted(2)), "seconds": 7.5}
    assert client.post("/api/annotate/draft", json=body).json() == {"saved": True}
    draft = taken(client)["draft"]
    assert draft["label_map"] == packed(painted(2)) and draft["seconds"] == 7.5
    assert client_of("curator").get("/api/annotate/next").json()["draft"] is None
    wrong = body | {"label_map": packed(np.ones((8, 8), np.uint8))}
    assert client.post("/api/annotate/draft", json=wrong).status_code == 422
    client.post("/api/annotate/submit", json=answer(task)).raise_for_status()
    back = client.get("/api/annotate/previous").json()
    assert back["draft"] is None and back["answer"]["label_map"] == packed(painted())


def test_a_key_counts_once_and_is_for_one_answer_only(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = taken(client)
    sent = answer(task, key="k1", seconds=3.0)
    for _ in range(3):
        assert client.post("/api/annotate/submit", json=sent).json() == {"revision": 1}
    other = client.post("/api/annotate/submit", json=sent | {"label_map": packed(painted(2))})
    assert other.status_code == 409 and "another answer" in other.json()["error"]
    with workspace.catalog(read_only=True) as catalog:
        assert len(catalog.labels.history(task["image"]["id"])) == 1


def test_a_late_answer_is_kept_as_another_opinion(client_of: Clients, workspace: Workspace) -> None:
    late, prompt = client_of("annotator"), client_of("curator")
    task = taken(late)
    with workspace.catalog() as catalog:
        catalog.queue.renew(task["lease"], "annotator", now() - 10, now() - 20)
        catalog.commit()
    other = taken(prompt)
    assert other["image"]["id"] == task["image"]["id"]
    prompt.post("/api/annotate/submit", json=answer(other)).raise_for_status()
    assert late.post("/api/annotate/submit", json=answer(task, clean=True, label_map=None)).status_code == 200
    with workspace.catalog(read_only=True) as catalog:
        labels = catalog.labels.of_round("r1")
    assert [label.author for label in labels] == ["annotator", "curator"]


def test_an_answer_may_be_changed_until_it_is_reviewed(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    tasks = []
    for _ in range(2):
        tasks.append(taken(client))
        client.post("/api/annotate/submit", json=answer(tasks[-1])).raise_for_status()
    last, first = (task["image"]["id"] for task in reversed(tasks))
    back = client.get("/api/annotate/previous").json()
    assert back["image"]["id"] == last and back["lease"] is None and back["revision"] == 1
    assert client.get("/api/annotate/previous", params={"before": last}).json()["image"]["id"] == first
    assert client.get("/api/annotate/previous", params={"before": first}).status_code == 204
    changed = {"image": last, "revision": 1, "label_map": packed(painted(3))}
    assert client.post("/api/annotate/submit", json=changed).json() == {"revision": 2}
    with workspace.catalog() as catalog:
        verdict = Review(
            image_id=last, author="annotator", revision=2, reviewer="curator", verdict="accepted"
        )
        catalog.reviews.add(verdict)
        catalog.commit()
    refused = client.post("/api/annotate/submit", json=changed | {"revision": 2})
    assert refused.status_code == 409 and "can no longer be changed" in refused.json()["error"]
    assert client.get("/api/annotate/previous").status_code == 409


def test_without_a_lease_nothing_new_is_taken(client_of: Clients, workspace: Workspace) -> None:
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.ids(limit=1)[0]
    body = {"image": image, "revision": 0, "clean": True}
    assert client_of("annotator").post("/api/annotate/submit", json=body).status_code == 409


def test_opinions_merge_by_majority_and_softly(client_of: Clients, workspace: Workspace) -> None:
    people = [client_of("annotator"), client_of("curator"), client_of("admin")]
    image = taken(people[0])["image"]["id"]
    with workspace.catalog() as catalog:
        items = tables.queue_items
        asked = items.update().where(items.c.image_id == image, items.c.round_id == "r1")
        catalog.connection.execute(asked.values(annotations_per_image=3))
        catalog.commit()
    for client, value in zip(people, (1, 1, 2), strict=True):
        task = taken(client, prefer=image)
        assert task["image"]["id"] == image
        drawn = painted(value)
        drawn[30:34, 30:34] = 3 if value == 2 else 0
        body = answer(task, label_map=packed(drawn))
        client.post("/api/annotate/submit", json=body).raise_for_status()
    path = f"/api/annotate/merged/{image}"
    assert people[0].get(path).status_code == 403
    merged, soft = people[1].get(path), people[1].get(path, params={"soft": True})
    assert np.array_equal(np.frombuffer(merged.content, np.uint8).reshape(64, 64), painted(1))
    shares = np.frombuffer(soft.content, np.uint8).reshape(64, 64)
    assert shares[12, 8] == 255 and shares[31, 31] == 85 and merged.headers["x-opinions"] == "3"


def test_gold_images_come_unannounced_and_score_in_secret(
    client_of: Clients, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gold_service, "GOLD_EVERY", 1)
    curator, client = client_of("curator"), client_of("annotator")
    task = taken(curator)
    curator.post("/api/annotate/submit", json=answer(task)).raise_for_status()
    gold = {"image": task["image"]["id"], "author": "curator"}
    assert client.post("/api/annotate/gold", json=gold).status_code == 403
    assert curator.post("/api/annotate/gold", json=gold).json() == {"gold": True}
    offered, ordinary = taken(client), taken(client_of("admin"))
    assert offered["image"]["id"] == gold["image"] and offered.keys() == ordinary.keys()
    drawn = painted(1)
    drawn[15:20, 5:30] = 0
    drawn[10:12, 5:30] = 2
    told = client.post("/api/annotate/submit", json=answer(offered, label_map=packed(drawn)))
    assert told.json() == {"revision": 1}
    assert taken(client)["image"]["id"] != gold["image"], "once each"
    with workspace.catalog(read_only=True) as catalog:
        (score,) = catalog.gold.scores("annotator")
        assert catalog.gold.get(gold["image"]).chosen_by == "curator"
    assert score.iou == pytest.approx(0.5) and score.right_class == pytest.approx(0.6)
    assert curator.delete(f"/api/annotate/gold/{gold['image']}").json() == {"dropped": True}


def test_triage_confirms_the_rest_and_queues_the_clicked(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    grid = client.get("/api/annotate/triage").json()
    assert grid["category"] in ("hands", "mugs") and grid["waiting"] == len(grid["images"])
    leases = [image["lease"] for image in grid["images"]]
    body = {"clean": leases[1:], "flawed": leases[:1], "seconds": 6.0}
    told = client.post("/api/annotate/triage", json=body).json()
    assert told == {"clean": len(leases) - 1, "queued": 1, "lost": []}
    again = client.post("/api/annotate/triage", json=body).json()
    assert again == told, "twice is once"
    other = client.get("/api/annotate/triage", params={"category": grid["category"]})
    assert other.status_code == 204
    assert taken(client)["image"]["id"] == grid["images"][0]["image"], "it comes first now"
    with workspace.catalog(read_only=True) as catalog:
        label = catalog.labels.latest(grid["images"][1]["image"], "annotator")
    assert label is not None and label.clean and label.note == "triage" and label.lead_seconds > 0


def texts(client: TestClient, image: str) -> list[str]:
    return [one["text"] for one in client.get("/api/annotate/comments", params={"image": image}).json()]


def test_comments_and_own_numbers(client_of: Clients) -> None:
    client, curator = client_of("annotator"), client_of("curator")
    task = taken(client)
    image = task["image"]["id"]
    said = client.post("/api/annotate/comments", json={"image": image, "text": "Is a blur one?"})
    assert said.json()["author"] == "annotator"
    curator.post("/api/annotate/comments", json={"image": image, "text": "Yes."}).raise_for_status()
    assert client.get("/api/annotate/comments", params={"image": "nope"}).status_code == 404
    assert texts(client, image) == ["Is a blur one?"], "no other's before an own opinion"
    client.post("/api/annotate/submit", json=answer(task, seconds=12.0)).raise_for_status()
    assert texts(client, image) == texts(curator, image) == ["Is a blur one?", "Yes."]
    mine = client.get("/api/annotate/mine").json()
    assert (mine["done_today"], mine["done_ever"], mine["median_seconds"], mine["remaining"]) == (
        1,
        1,
        12.0,
        5,
    )


def test_an_image_that_vanished_from_the_store_is_a_clear_answer(
    client_of: Clients, workspace: Workspace
) -> None:
    client = client_of("annotator")
    task = taken(client)
    with workspace.catalog(read_only=True) as catalog:
        workspace.blobs.delete(catalog.images.get(task["image"]["id"]).sha256)
    gone = client.get(task["image"]["url"])
    assert gone.status_code == 404 and gone.json()["error"]


def test_the_description_names_every_route(client_of: Clients) -> None:
    described = client_of("annotator").get("/api/openapi.json").json()
    paths = {f"/api/v1/annotate/{name}" for name in ("next", "submit", "draft", "skip", "previous", "mine")}
    assert paths <= set(described["paths"]) and described["components"]["schemas"]["Annotation"]


def test_scores_are_not_for_those_who_earn_them(workspace: Workspace) -> None:
    with workspace.catalog() as catalog:
        image = catalog.images.ids(limit=1)[0]
        catalog.gold.choose(GoldImage(image_id=image, label_map=None, clean=True, chosen_by="curator"))
        assert catalog.gold.unseen("annotator") is not None
        with pytest.raises(Conflict):
            require_editable(catalog, image, "annotator")
