"""Reason and importance of single regions: the API that keeps them, and the desk that asks for them."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from dataengine.records import Region
from storage.workspace import Workspace
from tests.ui.annotate.test_browser import Desk, Server, desk, go_on, newest, server, shown, stroke
from tests.ui.annotate.test_more import taken
from tests.ui.annotate.test_routes import answer, packed, painted
from tests.ui.browsing import until
from tests.ui.conftest import SIDE

__all__ = ["desk", "server"]

Clients = Callable[..., TestClient]
FINGERS = {"value": 1, "box": [5, 10, 30, 20], "reason": "six fingers", "importance": 80}


def test_regions_come_back_with_draft_answer_and_review(client_of: Clients, workspace: Workspace) -> None:
    client = client_of("annotator")
    task = taken(client)
    image = task["image"]["id"]
    draft = {"image": image, "label_map": packed(painted()), "regions": [FINGERS]}
    client.post("/api/annotate/draft", json=draft).raise_for_status()
    assert taken(client)["draft"]["regions"] == [FINGERS]
    client.post("/api/annotate/submit", json=answer(task, regions=[FINGERS])).raise_for_status()
    assert client.get("/api/annotate/previous").json()["answer"]["regions"] == [FINGERS]
    with workspace.catalog(read_only=True) as catalog:
        [label] = catalog.labels.history(image)
    assert label.regions == (Region(1, (5, 10, 30, 20), "six fingers", 80),)
    curator = client_of("curator")
    [opinion] = curator.get(f"/api/curate/reviews/{image}").json()["opinions"]
    assert opinion["regions"] == [FINGERS]
    curator.post("/api/curate/open", json={"image": image, "author": "annotator"}).raise_for_status()
    assert taken(curator, prefer=image)["draft"]["regions"] == [FINGERS]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"importance": 0}, "importance"),
        ({"importance": 101}, "importance"),
        ({"reason": "x" * 1001}, "reason"),
        ({"box": [5, 10, 5, 20]}, "is empty or outside the image"),
        ({"box": [5, 10, 65, 20]}, "is empty or outside the image"),
        ({"box": [40, 40, 50, 50]}, "has no pixel of class 1"),
        ({"value": 2}, "has no pixel of class 2"),
    ],
)
def test_what_no_region_can_be_is_refused(client_of: Clients, changes: dict, says: str) -> None:
    client = client_of("annotator")
    task = taken(client)
    sent = client.post("/api/annotate/submit", json=answer(task, regions=[FINGERS | changes]))
    assert sent.status_code == 422 and says in sent.text
    empty = answer(task, clean=True, label_map=None, regions=[FINGERS])
    assert client.post("/api/annotate/submit", json=empty).status_code == 422


def test_a_page_that_knows_no_regions_loses_none(client_of: Clients, workspace: Workspace) -> None:
    """The mask editor of the Gradio front end, and programs written before there were regions."""
    client = client_of("annotator")
    task = taken(client)
    image = task["image"]["id"]
    draft = {"image": image, "label_map": answer(task)["label_map"]}
    client.post("/api/annotate/draft", json=draft | {"regions": [FINGERS]}).raise_for_status()
    client.post("/api/annotate/draft", json=draft).raise_for_status()
    assert taken(client, prefer=image)["draft"]["regions"] == [FINGERS]
    client.post("/api/annotate/submit", json=answer(task)).raise_for_status()
    with workspace.catalog(read_only=True) as catalog:
        [label] = catalog.labels.history(image)
    assert label.regions == (Region(1, (5, 10, 30, 20), "six fingers", 80),)


@pytest.mark.browser
def test_the_desk_asks_for_them_by_the_keyboard_and_keeps_them(desk: Desk, server: Server) -> None:
    page = desk()
    image = shown(page)
    expect(page.locator("#region-list")).to_be_hidden()
    stroke(page, (0.2, 0.2), (0.5, 0.2))
    stroke(page, (0.7, 0.8), (0.75, 0.8))
    page.keyboard.press("r")
    rows = page.locator("#region-list li")
    expect(rows).to_have_count(2)
    expect(page.get_by_label("Region 1, shape distortion: importance, 1 to 100")).to_be_focused()
    page.keyboard.type("500")
    page.keyboard.press("Tab")
    page.keyboard.type("six fingers")
    page.keyboard.press("Escape")
    expect(page.locator("#stage")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_contain_text("a whole number from 1 to 100")
    page.get_by_label("Region 1, shape distortion: importance, 1 to 100").fill("75")
    page.reload()
    until(page, "() => document.body.dataset.ready === 'true'")
    assert shown(page) == image
    expect(rows).to_have_count(2)
    expect(page.get_by_label("Region 1, shape distortion: reason")).to_have_value("six fingers")
    page.locator("#stage").focus()
    go_on(page, "Enter", image)
    label = newest(server.workspace, image)
    assert label is not None and len(label.regions) == 1
    [region] = label.regions
    left, top, right, bottom = region.box
    assert (region.value, region.reason, region.importance) == (1, "six fingers", 75)
    assert left <= 0.2 * SIDE < 0.5 * SIDE <= right and top <= 0.2 * SIDE < bottom < 0.5 * SIDE
