"""From an empty workspace to labelled images: people, pages, and no command line.

The tests are the story's chapters, in this order; each continues where the one before it ended.
"""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from dataengine.clinic.world import stream
from dataengine.images import encode_png
from tests.ui.browsing import PASSWORD
from tests.ui.stories.conftest import Story

pytestmark = [pytest.mark.stories, pytest.mark.browser, pytest.mark.timeout(900)]

PEOPLE = ("engineer", "curator", "annotator", "rater")
IMAGES, SENT = 24, 10


def add(page: Page, name: str, role: str) -> None:
    """Fill the form for a new account, and send it."""
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password (10").fill(PASSWORD)
    for one in ("admin", *PEOPLE):
        page.get_by_label(one, exact=True).last.set_checked(one == role)
    page.get_by_role("button", name="Add", exact=True).click()


def test_an_admin_makes_the_accounts(story: Story) -> None:
    page = story.open("ada")
    page.goto(story.link)
    expect(page.get_by_text("Start here: this workspace has no images yet")).to_be_visible()
    page.goto(f"{story.url}/admin")
    add(page, "ada", "admin")
    expect(page.get_by_text("You are now signed in as ada")).to_be_visible()
    for name in PEOPLE:
        add(page, name, name)
        expect(page.get_by_text(f"Account {name} added")).to_be_visible()


def test_an_engineer_uploads_images_and_finds_artifacts(story: Story, tmp_path: Path) -> None:
    drawings = stream("validation", flawed=0.7)
    rows = ["file_name,text"]
    for number in range(IMAGES):
        (tmp_path / f"{number}.png").write_bytes(encode_png(drawings[number].image))
        rows.append(f'{number}.png,"{drawings[number].caption}"')
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    page = story.at("engineer", "/import")
    page.set_input_files("input[data-part=images]", sorted(map(str, tmp_path.iterdir())))
    page.get_by_role("button", name="Upload and import").click()
    expect(page.locator(".outcome .counts")).to_contain_text(f"{IMAGES} added · 0 known already")

    page = story.at("engineer", "/train")
    page.get_by_role("button", name="Register a detector").first.click()
    page.get_by_role("button", name="Register", exact=True).click()
    story.finished(page, "is registered.")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("table tbody tr")).to_have_count(1)

    page = story.at("engineer", "/curate")
    page.locator(".workbar [data-work=diagnose]").click()
    page.locator("dialog.work form .button").click()
    story.finished(page, f"{IMAGES} images predicted by")


def test_a_curator_searches_tags_and_sends(story: Story) -> None:
    page = story.at("curator", "/curate")
    expect(page.locator(".grid .tile")).to_have_count(IMAGES)
    page.get_by_label("Prompt").fill("hand")
    page.get_by_label("Prompt").press("Enter")
    expect(page.locator(".chips")).to_contain_text("Prompt: hand")
    expect(page.locator(".total")).to_contain_text(f" of {IMAGES} images")
    page.locator(".tile .pick").first.check(force=True)
    page.get_by_role("button", name="Tag", exact=True).click()
    page.get_by_label("Add tags").fill("to discuss")
    page.get_by_role("button", name="Apply").click()
    expect(page.locator(".tile .tags")).to_have_text("to discuss")

    page = story.at("curator", "/curate")
    page.locator(".workbar [data-work=send]").click()
    page.locator("dialog.work [name=budget]").fill(str(SENT))
    page.locator("dialog.work form .button").click()
    story.finished(page, f"{SENT} images sent to annotators")


def shown(page: Page) -> str:
    expect(page.locator("#layers")).to_be_visible()
    return page.locator("#layers").get_attribute("data-image") or ""


def draw(page: Page) -> None:
    """A stroke across the middle of the image."""
    box = page.locator("#layers").bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], middle, steps=6)
    page.mouse.up()


def test_an_annotator_labels_what_was_sent(story: Story) -> None:
    page = story.pages.get("annotator") or story.first_sign_in("annotator")
    expect(page.locator(".tasks a")).to_have_text(f"{SENT} images to label")
    page.goto(f"{story.url}/annotate")
    expect(page.locator("body")).to_have_attribute("data-ready", "true")
    for number in range(SENT):
        image = shown(page)
        page.keyboard.press("b")
        if number % 2:
            draw(page)
            page.keyboard.press("Control+z")
            expect(page.locator("#undo")).to_be_disabled()
            page.locator("#clean").click()
        else:
            draw(page)
            expect(page.locator("#undo")).to_be_enabled()
            page.locator("#submit").click()
        if number < SENT - 1:
            expect(page.locator("#layers")).not_to_have_attribute("data-image", image)
    expect(page.get_by_text("Nothing to label right now")).to_be_visible()
    expect(page.locator("#outbox")).to_have_attribute("data-waiting", "0")


def test_no_page_complained_on_the_way(story: Story) -> None:
    assert not story.problems, story.problems
