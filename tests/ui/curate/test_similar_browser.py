"""Map, near-duplicates, similarity and the large view in headless Chromium."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from dataengine.curation.appearance import APPEARANCE
from storage.opening import create_workspace
from tests.ui.browsing import PATIENCE_MS
from tests.ui.conftest import add_people, furnish
from tests.ui.curate.test_browser import ready
from ui.config import ServerConfig
from ui.server import background

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def mapped(templates: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Eight images on a map, four at the left and four at the right, and a detector that has seen none."""
    workspace = create_workspace(tmp_path_factory.mktemp("mapped") / "workspace")
    ids = furnish(workspace)
    add_people(workspace)
    places = np.array([(6_000 if at < 4 else 60_000, 4_000 + 8_000 * at) for at in range(8)], np.uint16)
    with workspace.catalog() as catalog:
        champion = catalog.detectors.get("d1")
        catalog.detectors.add(
            replace(champion, id="d2", name="second doctor", role="candidate", created=champion.created + 1)
        )
        catalog.map_places.replace("m1", ids, places)
        some = catalog.images.get(ids[0])
        catalog.images.add_many(
            replace(some, id=f"twin{at}", group="look:" + "0" * 16, source="imported", round_id=None, seed=at)
            for at in (90, 91)
        )
        catalog.commit()
    with background(workspace, ServerConfig(port=0, desks=False)) as where:
        yield where.url, workspace, ids
    workspace.close()


def test_a_lasso_on_the_map_filters_the_grid(visiting, mapped) -> None:  # type: ignore[no-untyped-def]
    """desks 3.15: pan, zoom, lasso; the same by keyboard."""
    url, _, ids = mapped
    page = visiting(url, "curator", "/curate")
    page.goto(f"{url}/curate?view=map")
    ready(page, "map")
    field = page.locator(".map-field")
    expect(page.locator("canvas.points")).to_have_attribute("data-painted", "8")
    page.get_by_label("Colour by").select_option("max")
    expect(page.locator(".map-legend")).to_contain_text("1.00")
    box = field.bounding_box()
    side, middle = min(box["width"], box["height"]), box["x"] + box["width"] / 2
    left, right, top = middle - side / 2 - 20, middle - 20, box["y"] + 4
    corners = [(left, top), (right, top), (right, top + box["height"] - 9), (left, top + box["height"] - 9)]
    page.get_by_role("button", name="Lasso").click()
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in [*corners[1:], corners[0]]:
        page.mouse.move(*corner, steps=60)
    page.mouse.up()
    expect(page.locator(".map-bubble")).to_contain_text("4 images inside")
    page.get_by_role("button", name="Show in the grid").click()
    ready(page, "images")
    expect(page.locator(".tile")).to_have_count(4)
    assert sorted(one.get_attribute("data-id") for one in page.locator(".tile").all()) == sorted(ids[:4])
    page.get_by_label("Category").select_option("mugs")
    expect(page.locator(".tile")).to_have_count(0)
    page.goto(f"{url}/curate?view=map")
    ready(page, "map")
    field.focus()
    for _ in range(6):
        page.keyboard.press("+")
    page.keyboard.press("0")
    page.keyboard.press("v")
    ready(page, "images")
    expect(page.locator(".tile")).to_have_count(8)


def test_maps_of_several_detectors_share_zoom_and_arrows_go_on(visiting, mapped) -> None:  # type: ignore[no-untyped-def]
    """desks 3.12: ← → show the next image, + − 0 and the wheel zoom; 3.2: who has not looked is said."""
    url, _, _ = mapped
    page = visiting(url, "curator", "/curate")
    page.goto(f"{url}/curate?round=r1")
    ready(page, "images")
    tiles = [tile.get_attribute("data-id") for tile in page.locator(".tile").all()]
    page.locator(".tile").first.click()
    detail = page.locator("dialog.detail")
    expect(detail.locator(".pane")).to_have_count(1)
    detail.get_by_label("second doctor").check()
    expect(detail.locator(".pane")).to_have_count(2)
    expect(detail.locator(".pane[data-detector=d2]")).to_contain_text("has not looked at this image")
    expect(detail.locator(".pane[data-detector=d1]")).to_contain_text("max 0.")
    detail.locator(".panes").focus()
    page.keyboard.press("+")
    detail.locator(".pane").first.hover()
    page.mouse.wheel(0, -200)
    expect(detail.locator(".panes")).not_to_have_attribute("data-scale", "1.30")
    scales = {one.evaluate("node => node.style.transform") for one in detail.locator(".zoomed").all()}
    assert len(scales) == 1 and "scale(1)" not in scales.pop()
    page.keyboard.press("0")
    expect(detail.locator(".panes")).to_have_attribute("data-scale", "1.00")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**image={tiles[1]}*")
    expect(detail.locator(".pane")).to_have_count(2)
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**image={tiles[0]}*")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#toast")).to_contain_text("first image")


def test_near_duplicates_are_erased_after_a_question(visiting, mapped) -> None:  # type: ignore[no-untyped-def]
    """desks 3.15: a near-duplicates view."""
    url, workspace, _ = mapped
    page = visiting(url, "curator", "/curate")
    page.goto(f"{url}/curate?view=duplicates")
    ready(page, "duplicates")
    expect(page.locator(".group")).to_have_count(1)
    page.get_by_role("button", name="Mark all but the largest").click()
    page.get_by_role("button", name="Erase marked images").click()
    expect(page.locator("dialog.confirm")).to_contain_text("Erase 1 image?", timeout=PATIENCE_MS)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Erase marked images").click()
    page.get_by_role("button", name="Erase", exact=True).click()
    expect(page.locator(".nothing")).to_contain_text("No near-duplicates", timeout=PATIENCE_MS)
    with workspace.catalog(read_only=True) as catalog:
        assert len([id for id in catalog.images.ids() if id.startswith("twin")]) == 1


def test_more_like_this_builds_the_index_and_comes_back(visiting, mapped) -> None:  # type: ignore[no-untyped-def]
    """desks 3.8: the button is there, no red error, and the result appears where one was."""
    url, workspace, ids = mapped
    page = visiting(url, "curator", "/curate")
    page.goto(f"{url}/curate?like={ids[0]}")
    ready(page, "images")
    expect(page.locator("#toast")).to_be_hidden()
    page.get_by_role("button", name="Build similarity index").click()
    expect(page.locator(".index-job .status")).to_contain_text("Queued")
    vectors = np.random.default_rng(0).integers(0, 120, (len(ids), 192)).astype(np.int8)
    with workspace.catalog() as catalog:
        (job,) = catalog.jobs.list(kind="features", limit=5)
        catalog.features.add_many(APPEARANCE, dict(zip(ids, vectors, strict=True)))
        catalog.commit()
    expect(page.locator(".tile")).to_have_count(len(ids) - 1, timeout=PATIENCE_MS)
    expect(page.locator(".tile").first).to_contain_text("#1 · alike")
    assert job.state == "queued" and f"like={ids[0]}" in page.url
