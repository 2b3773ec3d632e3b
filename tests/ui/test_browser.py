"""Headless Chromium on the real pages: painting, keys, sign-in, and every desk without an error."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dataengine.masks import unpack_label_map
from dataengine.records import Label
from storage.workspace import Workspace
from tests.services import chromium_path
from tests.ui.conftest import PASSWORD
from ui.access import AREAS

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 60_000

Live = tuple[str, Workspace]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, live: Live) -> Iterator[Callable[..., Page]]:
    """Opens a page as somebody, through the sign-in form; at the end no page may have thrown anything."""
    url, _ = live
    problems: list[str] = []
    contexts = []

    def visit(name: str, path: str, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": 1200, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
        page.goto(url + path)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(re.compile(re.escape(url + path) + "/?$"))
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not problems, problems


def shown_image(page: Page) -> str:
    """The id of the image on the page, once it is there."""
    expect(page.locator("#layers")).to_be_visible(timeout=PATIENCE_MS)
    return page.locator("#layers").get_attribute("data-image") or ""


def stroke(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the image, given as fractions (x, y) of its size."""
    box = page.locator("#layers").bounding_box()
    assert box
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=8)
    page.mouse.up()


def newest(workspace: Workspace, image_id: str, author: str) -> Label:
    with workspace.catalog(read_only=True) as catalog:
        label = catalog.labels.latest(image_id, author)
    assert label is not None
    return label


def test_what_is_painted_is_what_the_catalog_gets(visit: Callable[..., Page], live: Live) -> None:
    _, workspace = live
    page = visit("annotator", "/annotate")
    image = shown_image(page)
    stroke(page, (0.25, 0.5), (0.75, 0.5))
    page.keyboard.press("2")
    stroke(page, (0.5, 0.1), (0.5, 0.2))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Enter")
    expect(page.locator("#layers")).not_to_have_attribute("data-image", image, timeout=PATIENCE_MS)
    label = newest(workspace, image, "annotator")
    label_map = unpack_label_map(workspace.blobs.get(label.label_map or ""), 64, 64)
    rows, columns = np.nonzero(label_map == 1)
    assert abs(rows.mean() - 31.5) < 1 and columns.min() in (14, 15, 16) and columns.max() in (47, 48, 49)
    second = np.nonzero(label_map == 2)
    assert 4 <= second[0].min() < second[0].max() <= 15 and label.lead_seconds > 0


def test_undo_eraser_and_refusals(visit: Callable[..., Page], live: Live) -> None:
    _, workspace = live
    page = visit("annotator", "/annotate")
    image = shown_image(page)
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_contain_text("Nothing is painted")
    page.keyboard.press("]")
    stroke(page, (0.3, 0.3), (0.6, 0.3))
    page.keyboard.press("c")
    expect(page.locator("#message")).to_contain_text("erase it first")
    page.keyboard.press("Control+z")
    expect(page.locator("#undo")).to_be_disabled()
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("e")
    for _ in range(12):
        page.keyboard.press("]")
    stroke(page, (0.2, 0.3), (0.8, 0.3))
    page.keyboard.press("c")
    expect(page.locator("#layers")).not_to_have_attribute("data-image", image, timeout=PATIENCE_MS)
    assert newest(workspace, image, "annotator").clean


def test_skipping_help_map_and_the_end_of_the_queue(visit: Callable[..., Page]) -> None:
    page = visit("curator", "/annotate", "dark")
    first = shown_image(page)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("h")
    expect(page.locator("#opacity-value")).to_have_text("0 %")
    page.keyboard.press("h")
    expect(page.locator("#opacity-value")).to_have_text("45 %")
    seen = {first}
    for _ in range(10):
        page.keyboard.press("s")
        page.wait_for_timeout(50)
        before = page.locator("#layers").get_attribute("data-image") or ""
        expect(page.locator("#layers")).not_to_have_class("busy", timeout=PATIENCE_MS)
        seen.add(before)
        if page.locator("#empty").is_visible():
            break
    expect(page.locator("#empty")).to_be_visible(timeout=PATIENCE_MS)
    assert len(seen) > 1


def test_signing_out_leads_back_to_the_form(visit: Callable[..., Page], live: Live) -> None:
    url, _ = live
    page = visit("rater", "/study")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{url}/login*")
    page.goto(f"{url}/study")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def test_home_leads_where_the_role_may_go(visit: Callable[..., Page]) -> None:
    page = visit("curator", "/")
    cards = page.locator(".areas a b").all_text_contents()
    assert cards == ["Annotate", "Curate", "Rounds"]
    expect(page.locator(".clinic-bar nav a")).to_have_count(3)
    page.goto(page.url + "admin")
    expect(page.get_by_role("heading", name="Not for your role")).to_be_visible()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_desk_opens_without_an_error(visit: Callable[..., Page], live: Live) -> None:
    url, _ = live
    page = visit("admin", "/")
    for area in AREAS:
        if area.path != "/annotate":
            page.goto(url + area.path)
            expect(page.locator(".desk-heading h1").first).to_have_text(area.title, timeout=PATIENCE_MS)
            current = page.locator(".clinic-bar nav a[aria-current=page]")
            expect(current).to_have_text(area.title, timeout=PATIENCE_MS)
    page.goto(url + "/curate")
    expect(page.locator(".gallery-item")).to_have_count(8, timeout=PATIENCE_MS)
    page.locator(".gallery-item button").first.click()
    expect(page.locator(".panel.facts dd").first).to_contain_text("a drawn hand", timeout=PATIENCE_MS)
