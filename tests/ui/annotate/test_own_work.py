"""What an annotator gets back and finds again: returned images, stand-in suggestions, triage taken back, own
answers, practice by account."""

import base64
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from fastapi.testclient import TestClient

from dataengine.masks import unpack_label_map
from dataengine.records import DetectorVersion, Prediction
from pipelines.services.reviews import Verdict, Which, open_for_drawing, review_labels
from pipelines.services.triage import SECONDS_EACH
from storage.workspace import Workspace
from tests.ui.annotate.test_more import taken
from tests.ui.annotate.test_routes import answer, packed, painted

Clients = Callable[..., TestClient]


def judge(
    workspace: Workspace, image: str, verdict: Literal["accepted", "rejected"], note: str, revision: int = 1
) -> None:
    which = Which(image=image, author="annotator", revision=revision)
    review_labels(workspace, Verdict(labels=[which], verdict=verdict, note=note), "curator")


def drawing(task: dict) -> np.ndarray:
    return unpack_label_map(base64.b64decode(task["answer"]["label_map"]), 64, 64)


@pytest.mark.parametrize("clean", [False, True])
def test_a_returned_image_comes_with_the_note_and_the_own_drawing(
    client_of: Clients, workspace: Workspace, clean: bool
) -> None:
    """Desks 2.1."""
    client = client_of("annotator")
    task = taken(client)
    assert task["answer"] is None and task["note"] == ""
    image, drawn = task["image"]["id"], painted(2)
    body = answer(task, clean=True, label_map=None) if clean else answer(task, label_map=packed(drawn))
    client.post("/api/annotate/submit", json=body).raise_for_status()
    judge(workspace, image, "rejected", "Trace the letter more tightly, please.")
    again = taken(client, prefer=image)
    assert again["image"]["id"] == image and again["lease"] and again["revision"] == 1
    assert again["note"] == "Trace the letter more tightly, please."
    assert np.array_equal(drawing(again), np.zeros_like(drawn) if clean else drawn)
    client.post("/api/annotate/submit", json=answer(again, label_map=packed(painted(3)))).raise_for_status()
    judge(workspace, image, "rejected", "Still too wide.", revision=2)
    third = taken(client, prefer=image)
    assert third["note"] == "Still too wide." and np.array_equal(drawing(third), painted(3))
    assert taken(client_of("curator"), prefer=image)["image"]["id"] != image, "returned to its author alone"


def test_an_image_that_the_champion_has_not_seen_shows_the_newest_map_and_says_so(
    client_of: Clients, workspace: Workspace
) -> None:
    """Desks 2.2: after a promotion there are still suggestions, and the page says whose."""
    client = client_of("annotator")
    task = taken(client)
    image = task["image"]["id"]
    with workspace.catalog() as catalog:
        first = catalog.predictions.get(image, "d1")
        assert first is not None
        # Not sent by any detector, so that only the stand-in is left.
        catalog.queue.withdraw(image, "r1")
        for number, name in (
            (2, "middle doctor"),
            (3, "retired doctor"),
            (4, "blind doctor"),
            (5, "champion"),
        ):
            detector = DetectorVersion(id=f"d{number}", name=name, checkpoint="0" * 64, created=1e10 + number)
            catalog.detectors.add(detector)
            if number < 5:
                ref = None if number == 4 else first.map_ref
                seen = {"max": 0.5, "mean": 0.1, "uncertainty": 0.0, "map_ref": ref}
                catalog.predictions.add_many(
                    [Prediction(image_id=image, detector_id=detector.id, **seen)]  # type: ignore[arg-type]
                )
        catalog.detectors.promote("d5", "test", "newest")
        catalog.detectors.remove("d3", "test", "worse")
        catalog.commit()
    open_for_drawing(workspace, image, None, "annotator")
    shown = taken(client, prefer=image)["map"]
    assert shown["detector"] == "middle doctor" and "detector=d2" in shown["url"]
    assert shown["note"] == "The champion, champion, has not looked at this image yet."
    client.post("/api/annotate/submit", json=answer(taken(client, prefer=image))).raise_for_status()
    with workspace.catalog(read_only=True) as catalog:
        label = catalog.labels.latest(image, "annotator")
    assert label is not None and label.detector_id == "d2", "the label remembers what it was drawn over"


def test_practice_is_remembered_by_account(client_of: Clients) -> None:
    """Desks 2.7."""
    first, second = client_of("annotator"), client_of("curator")
    assert first.get("/api/annotate/mine").json()["tour_due"]
    for _ in range(2):
        assert first.post("/api/annotate/tour").json() == {"finished": True}
    assert not client_of("annotator").get("/api/annotate/mine").json()["tour_due"], "in any browser"
    assert second.get("/api/annotate/mine").json()["tour_due"], "not by browser"


def test_a_batch_that_nobody_can_have_seen_is_refused(client_of: Clients, workspace: Workspace) -> None:
    """Desks 2.5."""
    client = client_of("annotator")
    grid = client.get("/api/annotate/triage").json()
    leases = [image["lease"] for image in grid["images"]]
    least = SECONDS_EACH * len(leases)
    assert grid["seconds_each"] == SECONDS_EACH and len(leases) > 2
    for seconds in (0.0, least - 0.1):
        for body in ({"clean": leases}, {"clean": leases[1:], "flawed": leases[:1]}):
            refused = client.post("/api/annotate/triage", json=body | {"seconds": seconds})
            assert refused.status_code == 422 and "on the screen" in refused.json()["error"]
    with workspace.catalog(read_only=True) as catalog:
        assert not catalog.labels.by("annotator")
    done = client.post("/api/annotate/triage", json={"clean": leases, "seconds": least})
    assert done.json()["clean"] == len(leases)


@pytest.mark.parametrize("kind", ["draw", "triage"])
def test_a_triaged_batch_can_be_taken_back(client_of: Clients, workspace: Workspace, kind: str) -> None:
    """Desks 2.5: labels are gone, drawings no longer asked for, and the same images wait again."""
    client = client_of("annotator")
    if kind == "triage":
        from dataengine.records import QueueItem

        with workspace.catalog() as catalog:
            items = [
                QueueItem(image_id=item.image_id, round_id="r1", kind="triage", priority=item.priority)
                for item in catalog.queue.of_round("r1")
            ]
            for item in items:
                catalog.queue.withdraw(item.image_id, "r1")
            catalog.queue.add_many(items)
            catalog.commit()
    with workspace.catalog(read_only=True) as catalog:
        before = sorted(map(repr, catalog.queue.of_round("r1")))
    grid = client.get("/api/annotate/triage").json()
    leases = [image["lease"] for image in grid["images"]]
    body = {"clean": leases[2:], "flawed": leases[:2], "seconds": 60.0}
    client.post("/api/annotate/triage", json=body).raise_for_status()
    judge(workspace, grid["images"][-1]["image"], "accepted", "")
    undone = client.post("/api/annotate/triage/undo", json={"leases": leases})
    assert undone.json() == {"undone": len(leases) - 1, "kept": leases[-1:]}, "a reviewed label stays"
    again = client.post("/api/annotate/triage/undo", json={"leases": leases}).json()
    assert again["undone"] == 0
    other = client_of("curator").post("/api/annotate/triage/undo", json={"leases": leases}).json()
    assert other["undone"] == 0, "one's own only"
    with workspace.catalog(read_only=True) as catalog:
        assert [label.image_id for label in catalog.labels.by("annotator")] == [grid["images"][-1]["image"]]
        after = sorted(map(repr, catalog.queue.of_round("r1")))
    if kind == "triage":
        assert after == before
    waiting = client.get("/api/annotate/triage", params={"category": grid["category"]}).json()
    assert {one["image"] for one in waiting["images"]} == {one["image"] for one in grid["images"][:-1]}


def test_own_answers_are_searched_and_opened_again(client_of: Clients, workspace: Workspace) -> None:
    """Desks 2.21."""
    client, images = client_of("annotator"), []
    for number in range(4):
        task = taken(client)
        images.append(task["image"]["id"])
        body = answer(task, clean=True, label_map=None) if number == 3 else answer(task)
        if number < 3:
            body["label_map"] = packed(painted(number + 1))
        client.post("/api/annotate/submit", json=body).raise_for_status()
    judge(workspace, images[0], "accepted", "")
    judge(workspace, images[1], "rejected", "Tighter.")

    def found(**asked: object) -> list[str]:
        answers = client.get("/api/annotate/answers", params=asked).json()["answers"]  # type: ignore[arg-type]
        return [one["image"] for one in answers]

    assert found() == images[::-1], "newest first"
    assert [found(shows=shows) for shows in range(4)] == [images[3:], *([image] for image in images[:3])]
    states = [found(state=state) for state in ("approved", "returned", "unreviewed")]
    assert states == [images[:1], images[1:2], images[:1:-1]]
    rows = {one["image"]: one for one in client.get("/api/annotate/answers").json()["answers"]}
    assert [rows[image]["editable"] for image in images] == [False, True, True, True]
    assert rows[images[1]]["note"] == "Tighter." and rows[images[0]]["classes"] == [1]
    for text, count in (("HAND", 4), ("number", 4), ("100%", 0), ("_", 0), (rows[images[2]]["prompt"], None)):
        hits = found(text=text)
        assert len(hits) == count if count is not None else images[2] in hits, text
    assert found(after=images[2]) == images[1::-1], "the next page"
    opened = client.get("/api/annotate/previous", params={"image": images[1]}).json()
    assert opened["lease"] is None and np.array_equal(drawing(opened), painted(2))
    assert opened["note"] == "Tighter."
    locked = client.get("/api/annotate/previous", params={"image": images[0]})
    assert locked.status_code == 409 and "accepted" in locked.json()["error"]
    assert client_of("curator").get("/api/annotate/answers").json() == {"answers": [], "after": None}
    for bad in ({"shows": 99}, {"state": "lost"}, {"text": "a" * 300}, {"text": "\0"}):
        assert client.get("/api/annotate/answers", params=bad).status_code == 422


@pytest.mark.parametrize("ends", ["left", "drafted", "answered"])
def test_opening_an_image_without_answering_leaves_no_queue_entry(
    client_of: Clients, workspace: Workspace, ends: str
) -> None:
    """Desks 2.15."""
    curator = client_of("curator")
    remaining = curator.get("/api/annotate/mine").json()["remaining"]
    with workspace.catalog(read_only=True) as catalog:
        image = catalog.images.find()[-1].id
    open_for_drawing(workspace, image, None, "curator")
    task = taken(curator, prefer=image)
    assert task["image"]["id"] == image
    if ends == "drafted":
        draft = {"image": image, "label_map": packed(painted()), "seconds": 1.0}
        curator.post("/api/annotate/draft", json=draft).raise_for_status()
    if ends == "answered":
        curator.post("/api/annotate/submit", json=answer(task)).raise_for_status()
    curator.post("/api/annotate/release", json={"lease": task["lease"]}).raise_for_status()
    if ends == "answered":
        open_for_drawing(workspace, image, None, "curator")
        again = taken(curator, prefer=image)
        assert again["note"] == "" and np.array_equal(drawing(again), painted()), "one goes on from one's own"
        curator.post("/api/annotate/release", json={"lease": again["lease"]}).raise_for_status()
    left = curator.get("/api/annotate/mine").json()["remaining"]
    # Unfinished work keeps its place; an image that already waited stays with everybody's own queue.
    assert left - remaining == (1 if ends == "drafted" else 0)
    with workspace.catalog(read_only=True) as catalog:
        items = [item for item in catalog.queue.of_round("edit by curator") if item.image_id == image]
    assert len(items) == (1 if ends == "drafted" else 0)
