"""Headless Chromium on /annotate: triage of many images, and the tour."""

import re

import pytest
from playwright.sync_api import Route, expect

from tests.ui.annotate.test_browser import (
    Desk,
    Server,
    desk,
    server,
    shown,
    stroke,
)
from tests.ui.browsing import PATIENCE_MS

__all__ = ["desk", "server"]

pytestmark = pytest.mark.browser


def test_triage_labels_the_rest_clean_and_queues_the_flawed(desk: Desk, server: Server) -> None:
    with server.workspace.catalog() as catalog:  # the other category fills a grid
        for image in catalog.images.find():
            if image.category == "hands":
                catalog.queue.withdraw(image.id, "r1")
        catalog.commit()
    page = desk()
    shown(page)
    unseen = iter([True])

    def break_one(route: Route) -> None:
        if route.request.resource_type == "image" and next(unseen, False):
            route.fulfill(status=404)
        else:
            route.continue_()

    page.route("**/pixels", break_one)
    page.keyboard.press("t")
    images = page.locator("#triage-grid button")
    expect(images).to_have_count(11, timeout=PATIENCE_MS)  # an image that nobody can see is not offered
    count = images.count()
    with server.workspace.catalog(read_only=True) as catalog:
        before = catalog.labels.count("annotator")
    images.nth(1).click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    expect(page.locator("#triage-confirm-text")).to_have_text(f"{count - 2} clean, 2 to draw")
    page.keyboard.press("Enter")  # desks 2.5: not before every image was on the screen
    assert images.count() == count
    expect(page.locator("#triage-confirm")).to_be_disabled()
    expect(page.locator("#triage-seen")).to_contain_text(f"of {count} seen")
    page.set_viewport_size({"width": 1200, "height": 300})
    expect(page.locator('#triage-grid [data-seen="yes"]').first).to_be_visible(timeout=PATIENCE_MS)
    expect(images.last).to_have_attribute("data-seen", "no")  # below the fold
    page.set_viewport_size({"width": 1200, "height": 1600})
    expect(page.locator("#triage-confirm")).to_be_enabled(timeout=PATIENCE_MS)
    page.keyboard.press("Enter")
    expect(page.locator("#triage-done-text")).to_contain_text(
        f"{count - 2} confirmed clean", timeout=PATIENCE_MS
    )
    expect(page.locator("#outbox")).to_have_attribute("data-waiting", "0", timeout=PATIENCE_MS)
    with server.workspace.catalog(read_only=True) as catalog:
        assert catalog.labels.count("annotator") == before + count - 2
        flawed = [item for item in catalog.queue.of_round("r1") if item.reason == "flawed"]
    assert len(flawed) == 2
    page.keyboard.press("Backspace")
    expect(page.locator("#triage-done-text")).to_have_text(f"{count} taken back.", timeout=PATIENCE_MS)
    with server.workspace.catalog(read_only=True) as catalog:
        assert catalog.labels.count("annotator") == before
        assert not [item for item in catalog.queue.of_round("r1") if item.reason == "flawed"]
    page.keyboard.press("Escape")
    expect(page.locator("#layers")).to_be_visible(timeout=PATIENCE_MS)


def test_the_tour_teaches_with_three_images_and_sends_nothing(desk: Desk, server: Server) -> None:
    page = desk("curator", tour=True)
    verdict = page.locator("#lesson-verdict")
    with server.workspace.catalog(read_only=True) as catalog:
        before = catalog.labels.count("curator")
    expect(page.locator("#category")).to_have_text("practice 1 of 3")
    # desks 2.14: instructions stood in small grey type at the bottom, and nothing pointed at a control
    above, stage = page.locator("#lesson").bounding_box(), page.locator("#stage").bounding_box()
    assert above and stage and above["y"] + above["height"] <= stage["y"] + 1
    expect(page.locator("#lesson-text")).to_have_css("font-size", re.compile(r"^1[3-9]"))
    expect(page.locator(".pointed")).to_have_count(1)
    expect(page.locator("#stage")).to_have_attribute("data-regions", "1", timeout=PATIENCE_MS)
    page.keyboard.press("c")
    expect(verdict).to_contain_text("Look again")
    page.keyboard.press("3")
    page.keyboard.press("a")
    page.keyboard.press("Enter")  # desks 2.3: the class is checked
    expect(verdict).to_contain_text("this is class 1, shape distortion")
    page.keyboard.press("Enter")  # desks 2.4: after two misses the answer is there
    expect(page.locator("#category")).to_have_text("practice 2 of 3", timeout=PATIENCE_MS)
    page.keyboard.press("s")  # desks 2.6: skips this one only
    expect(page.locator("#category")).to_have_text("practice 3 of 3", timeout=PATIENCE_MS)
    stroke(page, (0.4, 0.4), (0.6, 0.4))
    page.keyboard.press("Enter")
    expect(verdict).to_contain_text("There is no artifact here")
    page.keyboard.press("Control+z")
    page.keyboard.press("c")
    expect(page.locator("#layers")).not_to_have_attribute(
        "data-image", re.compile("practice"), timeout=PATIENCE_MS
    )
    expect(page.locator("#lesson")).to_be_hidden()
    again = desk("curator", tour=True)  # desks 2.7: another browser, the same account
    expect(again.locator("#lesson")).to_be_hidden()
    with server.workspace.catalog(read_only=True) as catalog:
        assert catalog.audit.count("annotate.tour", "curator", 0.0) == 1
    with server.workspace.catalog(read_only=True) as catalog:
        assert catalog.labels.count("curator") == before
