"""Curating in headless Chromium: deep links, the whole review path, building a benchmark."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from dataengine.masks import pack_label_map, unpack_label_map
from dataengine.records import Label
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.ui.browsing import PATIENCE_MS
from tests.ui.conftest import add_people, furnish
from tests.ui.curate.test_repairs import propose
from ui.config import ServerConfig
from ui.server import background

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def curating(templates: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A server without Gradio over a workspace of its own, whose queue is empty."""
    workspace = create_workspace(tmp_path_factory.mktemp("curating") / "workspace")
    ids = furnish(workspace)
    add_people(workspace)
    with workspace.catalog() as catalog:
        for id in ids:
            catalog.queue.withdraw(id, "r1")
        catalog.commit()
    with background(workspace, ServerConfig(port=0, desks=False)) as where:
        yield where.url, workspace, ids
    workspace.close()


def square(workspace: Workspace, image: str, author: str, left: int) -> None:
    """A label with a square at column `left`."""
    label_map = np.zeros((64, 64), np.uint8)
    label_map[20:40, left : left + 20] = 1
    blob = workspace.blobs.put(pack_label_map(label_map))
    with workspace.catalog() as catalog:
        catalog.labels.submit(
            Label(image_id=image, author=author, height=64, width=64, label_map=blob, lead_seconds=5)
        )
        catalog.commit()


def own_label(page: Page, workspace: Workspace, image: str) -> Label:
    """The curator's own revision, once the page has sent it, which may be after it asked for the next."""
    for _ in range(100):
        with workspace.catalog(read_only=True) as catalog:
            label = catalog.labels.latest(image, "curator")
        if label is not None:
            return label
        page.wait_for_timeout(200)
    raise AssertionError("the curator's revision never reached the server")


def ready(page: Page, view: str) -> None:
    expect(page.locator("#view")).to_have_attribute("data-ready", view, timeout=PATIENCE_MS)


def test_a_link_keeps_the_filter_and_hovering_shows_the_map(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    url, _, _ = curating
    page = visiting(url, "curator", "/curate")
    ready(page, "images")
    expect(page.locator(".tile")).to_have_count(8)
    page.get_by_label("Category").select_option("mugs")
    page.wait_for_url("**category=mugs*")
    expect(page.locator(".tile")).to_have_count(4)
    expect(page.locator(".total")).to_have_text("4 of 8 images")
    expect(page.locator(".chip")).to_have_text("Category: mugs×")
    for name, value in (("state", "unlabelled"), ("class", "1"), ("category", "hands")):
        option = page.locator(f"select[name={name}] option[value={value!r}]")
        expect(option).to_contain_text(f" · {0 if name == 'class' else 4}")
    page.locator(".tile").first.hover()
    expect(page.locator(".tile canvas.drawn")).to_have_count(1)
    page.locator(".tile").first.click()
    expect(page.locator("dialog.detail .facts")).to_contain_text("first doctor")
    page.reload()
    ready(page, "images")
    expect(page.locator("dialog.detail")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Category")).to_have_value("mugs")
    page.go_back()
    expect(page.locator(".tile")).to_have_count(8)


def test_selecting_by_mouse_and_keyboard_tagging_and_saving_the_view(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    """desks 3.3, 3.4, 3.15."""
    url, workspace, _ = curating
    page = visiting(url, "curator", "/curate")
    ready(page, "images")
    bar, picks = page.locator(".selection b"), page.locator(".tile .pick")
    picks.nth(1).click()
    picks.nth(3).click(modifiers=["Shift"])
    expect(bar).to_have_text("3 images selected")
    page.keyboard.press("Escape")
    expect(page.locator(".selection")).to_be_hidden()
    page.locator(".tile .open").first.focus()
    page.keyboard.press("x")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    expect(bar).to_have_text("3 images selected")
    expect(page.locator("dialog")).to_have_count(0)
    page.keyboard.press("Escape")
    page.get_by_label("Prompt").fill('"number 2" hand')
    page.keyboard.press("Enter")
    page.wait_for_url("**search=*")
    expect(page.locator(".total")).to_have_text("2 of 8 images")
    page.locator(".tile .open").first.focus()
    page.keyboard.press("Control+a")
    expect(bar).to_have_text("All 2 images that match")
    page.get_by_role("button", name="Tag").click()
    page.get_by_label("Add tags").fill("x" * 80)
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("dialog .note.bad")).to_contain_text("a tag has at most 64 characters")
    page.get_by_label("Add tags").fill("odd, to check")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".tile .tags em")).to_have_count(4)
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.tags.counts() == {"odd": 2, "to check": 2}
    page.get_by_text("Views", exact=True).click()
    page.get_by_role("button", name="Save this view").click()
    page.locator("dialog").get_by_label("Name").fill("second numbers")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator(".total")).to_have_text("8 images")
    page.get_by_text("Views", exact=True).click()
    page.get_by_role("link", name="second numbers").click()
    expect(page.locator(".total")).to_have_text("2 of 8 images")


def test_nothing_predicted_is_said_and_asks_for_no_map(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    """desks 3.2: a picture without a map looked like one without artifacts, with a 404 in the console."""
    url, workspace, ids = curating
    square(workspace, ids[5], "annotator", 10)
    with workspace.catalog() as catalog:
        rows = catalog.predictions.of("d1", [ids[5]])
        catalog.connection.exec_driver_sql(f"DELETE FROM predictions WHERE image_id = '{ids[5]}'")
        catalog.commit()
    page = visiting(url, "curator", "/curate")
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    ready(page, "images")
    expect(page.locator(".divider")).to_contain_text("The champion has not predicted these")
    tile = page.locator(f".tile[data-id='{ids[5]}']")
    expect(tile).to_contain_text("not diagnosed")
    tile.hover()
    tile.locator(".open").click()
    expect(page.locator("dialog.detail")).to_contain_text("has not looked at this image")
    page.keyboard.press("Escape")
    page.goto(url + "/curate?view=review")
    ready(page, "review")
    expect(page.locator(".unpredicted")).to_have_text("No detector has predicted this image.")
    assert not errors
    with workspace.catalog() as catalog:
        catalog.predictions.add_many(rows)
        catalog.connection.exec_driver_sql(f"DELETE FROM labels WHERE image_id = '{ids[5]}'")
        catalog.commit()


def test_a_note_belongs_to_one_label_and_r_works_from_the_keyboard(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    """desks 3.5: a note left in the box was stored with labels approved by ticking. desks 3.6: R was no
    keyboard action."""
    url, workspace, ids = curating
    for image in ids[2:5]:
        square(workspace, image, "annotator", 10)
    page = visiting(url, "curator", "/curate?view=review")
    ready(page, "review")
    expect(page.locator(".stage-of-three")).to_have_attribute("data-image", ids[2])
    page.keyboard.press("r")
    expect(page.get_by_label("Note")).to_be_focused()
    page.keyboard.type("Trace the letter more tightly.")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".stage-of-three")).to_have_attribute("data-image", ids[3])
    expect(page.get_by_label("Note")).to_have_value("")
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Note")).to_have_value("Trace the letter more tightly.")
    for image in ids[3:5]:
        page.locator(f".entry[data-image='{image}'] input").check()
    page.get_by_role("button", name="Approve selected").click()
    expect(page.locator(".entry")).to_have_count(1)
    page.keyboard.press("r")
    page.keyboard.type("Thumb, too")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".entry")).to_have_count(0)
    with workspace.catalog() as catalog:
        notes = {image: catalog.reviews.of_image(image)[-1] for image in ids[2:5]}
        assert {image: (one.verdict, one.note) for image, one in notes.items()} == {
            ids[2]: ("rejected", "Thumb, too"),
            ids[3]: ("accepted", ""),
            ids[4]: ("accepted", ""),
        }
        for table in ("reviews", "labels", "comments", "queue_items"):
            catalog.connection.exec_driver_sql(f"DELETE FROM {table}")
        catalog.commit()


def test_a_pilot_from_the_grid_to_its_page(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    url, workspace, _ = curating
    page = visiting(url, "curator", "/curate")
    ready(page, "images")
    page.locator(".tile .open").first.focus()
    page.keyboard.press("Control+a")
    page.get_by_role("button", name="Pilot").click()
    dialog = page.locator("dialog")
    dialog.get_by_label("Images").fill("2")
    dialog.get_by_label("annotator").check()
    dialog.get_by_role("button", name="Start pilot").click()
    ready(page, "pilots")
    expect(page.locator("#view")).to_contain_text("0 / 2")
    page.get_by_label("Target number of images").fill("500")
    page.keyboard.press("Tab")
    page.wait_for_url("**target=500*")
    with workspace.catalog() as catalog:
        [pilot] = catalog.pilots.list()
        for item in catalog.queue.of_round(pilot.id):
            catalog.queue.withdraw(item.image_id, pilot.id)
        catalog.commit()


def test_the_whole_review_path(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    url, workspace, ids = curating
    for image, author in ((ids[0], "annotator"), (ids[1], "annotator"), (ids[1], "admin")):
        square(workspace, image, author, 10)
    page = visiting(url, "curator", "/curate")
    page.get_by_role("link", name="Review").click()
    ready(page, "review")
    expect(page.locator(".entry")).to_have_count(3)
    expect(page.locator(".three figure")).to_have_count(3)
    page.locator(f".entry[data-image='{ids[0]}']").click()
    expect(page.locator(".stage-of-three")).to_have_attribute("data-image", ids[0])
    page.locator("#return").click()
    expect(page.locator("#toast")).to_contain_text("Describe in the note")
    page.get_by_label("Note").fill("trace the thumb as well")
    page.locator("#return").click()
    expect(page.locator(".entry")).to_have_count(2)
    page.get_by_label("Select all").check()
    page.get_by_role("button", name="Approve selected").click()
    expect(page.locator(".labels .nothing")).to_have_text("Nothing to review.")
    with workspace.catalog(read_only=True) as catalog:
        verdicts = catalog.reviews.verdicts(ids[:2])
    assert sorted(verdicts.values()) == ["accepted", "accepted", "rejected"]
    theirs = visiting(url, "annotator", "/annotate")
    expect(theirs.locator("#layers")).to_have_attribute("data-image", ids[0], timeout=PATIENCE_MS)
    theirs.close()
    square(workspace, ids[0], "annotator", 14)
    page.get_by_role("tab", name="To review").click()
    expect(page.locator(".entry")).to_have_count(1)
    page.locator("#edit").click()
    page.wait_for_url("**/annotate?image=*")
    expect(page.locator("#layers")).to_have_attribute("data-image", ids[0], timeout=PATIENCE_MS)
    page.keyboard.press("Enter")
    page.wait_for_url("**/curate?*")  # desks 2.15: back to where it was opened
    edited = own_label(page, workspace, ids[0])
    found = unpack_label_map(workspace.blobs.get(edited.label_map or ""), 64, 64)
    assert found[20:40, 14:34].all() and found.sum() == 400
    page.goto(url + "/curate?view=review&author=curator")
    ready(page, "review")
    expect(page.get_by_text("more without these filters")).to_be_visible()
    page.get_by_role("button", name="Approve only this label").click()
    expect(page.locator("#toast")).to_contain_text("approved")
    page.goto(url + f"/curate?view=images&image={ids[0]}")
    dialog = page.locator("dialog.detail")
    dialog.get_by_role("button", name="Use as gold").click()
    expect(dialog.locator(".gold")).to_contain_text("chosen by curator")
    page.goto(url + "/curate?view=people")
    expect(page.locator(".goldens a")).to_have_count(1, timeout=PATIENCE_MS)
    page.goto(url + "/curate?view=review&state=approved&author=curator")
    page.get_by_role("button", name="Remove from gold").click()
    expect(page.locator(".use-as-gold")).to_have_count(1)
    page.goto(url + "/curate?view=balance")
    expect(page.locator("table.balance")).to_contain_text("hands", timeout=PATIENCE_MS)
    # desks 3.11: "Now" and "After" were drawn to different scales
    bars = page.locator("table.balance .stacked").evaluate_all(
        "bars => bars.map((bar) => [parseInt(bar.title), bar.querySelector('.flawed').clientWidth])"
    )
    widths = {width / flawed for flawed, width in bars if flawed}
    assert widths and max(widths) - min(widths) <= 1, bars


def test_thresholds_say_what_would_go_and_it_goes(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    url, workspace, _ = curating
    page = visiting(url, "curator", "/curate?view=categories")
    ready(page, "categories")
    slider = page.get_by_label("Send mugs if confidence is at least")
    slider.fill("62")
    expect(page.locator("#would-go")).to_have_text("3")
    slider.fill("0")
    expect(page.locator("#would-go")).to_have_text("4")
    slider.fill("62")
    page.get_by_label("Annotators per image").fill("1")
    page.locator("#send").click()
    expect(page.locator("#toast")).to_contain_text("3 images sent to annotators")
    with workspace.catalog(read_only=True) as catalog:
        assert catalog.queue.remaining() >= 3


def test_building_a_benchmark(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    url, workspace, _ = curating
    page = visiting(url, "curator", "/curate?view=benchmark", "dark")
    ready(page, "benchmark")
    expect(page.locator(".versions, .nothing").first).to_contain_text("No benchmark yet")
    page.get_by_label("Name", exact=True).fill("first")
    page.get_by_label("Annotators per image").fill("2")
    page.get_by_role("button", name="Create draft").click()
    expect(page.locator(".item").first).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("#freeze")).to_be_disabled()
    images = [item.get_attribute("data-image") or "" for item in page.locator(".item").all()]
    for image in images:
        square(workspace, image, "annotator", 10)
        square(workspace, image, "curator", 12 if image != images[0] else 40)
    page.locator("#settle-agreed").click()
    expect(page.locator("#toast")).to_contain_text("resolved by majority")
    page.get_by_role("button", name="Use annotator's").click()
    expect(page.locator("#freeze")).to_be_enabled()
    page.locator("#freeze").click()
    expect(page.locator("#toast")).to_contain_text("frozen")
    expect(page.locator(".versions em")).to_have_text("frozen")
    with workspace.catalog(read_only=True) as catalog:
        frozen = catalog.benchmarks.newest_frozen()
        assert frozen is not None and {item.image_id for item in catalog.benchmarks.items(frozen.id)} == set(
            images
        )
    page.goto(url + "/curate?view=people")
    expect(page.locator("#view")).to_contain_text("Krippendorff", timeout=PATIENCE_MS)


def test_a_repair_is_compared_and_accepted(visiting, curating) -> None:  # type: ignore[no-untyped-def]
    url, workspace, ids = curating
    accepted, rejected = propose(workspace, ids[6]), propose(workspace, ids[7])
    page = visiting(url, "admin", "/curate")
    ready(page, "images")
    page.goto(f"{url}/curate?image={ids[6]}")
    page.locator(".repair-panel summary").click()
    panel = page.locator(".repair-panel")
    expect(panel.locator("article")).to_have_attribute("data-id", accepted)
    panel.get_by_role("slider").fill("20")
    assert "20%" in (panel.locator(".comparison").get_attribute("style") or "")
    panel.get_by_role("button", name="Accept").click()
    expect(panel.locator("article")).to_have_count(0)
    panel.get_by_label("Generator that redraws").select_option("treated")
    panel.get_by_role("button", name="Redraw its artifacts").click()
    expect(panel.get_by_role("status")).to_contain_text("Queued")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Repairs").click()
    ready(page, "repairs")
    expect(page.locator(".repair-grid article")).to_have_attribute("data-id", rejected)
    page.get_by_role("button", name="Reject", exact=True).click()
    expect(page.locator(".nothing")).to_contain_text("Nothing waits for a decision")
    page.get_by_role("tab", name="Accepted").click()
    expect(page.locator(".repair-grid article")).to_have_attribute("data-id", accepted)
    page.get_by_role("button", name="Open a blind study of these pairs").click()
    page.wait_for_url("**/study?**")
    expect(page.locator("#view")).to_contain_text("original vs. repaired", timeout=PATIENCE_MS)
