"""Headless Chromium on /annotate: what the desk shows around the canvas, at every size and with no server."""

import re

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from pipelines.services.reviews import Verdict, Which, open_for_drawing, review_labels
from tests.ui.annotate.test_browser import (
    Desk,
    Server,
    at,
    desk,
    go_on,
    newest,
    seen,
    server,
    shown,
    stored,
    stroke,
)
from tests.ui.browsing import PATIENCE_MS, until

__all__ = ["desk", "server"]

pytestmark = pytest.mark.browser

# The label canvas at a place of the window, as [red, green, blue, alpha].
INK = """([x, y]) => {
  const canvas = document.querySelector("#labels"), box = canvas.getBoundingClientRect();
  const [left, top] = [Math.floor(x - box.left), Math.floor(y - box.top)];
  return [...canvas.getContext("2d").getImageData(left, top, 1, 1).data];
}"""
# A diagonal one pixel wide on 1000², and an eraser through it, shown at a fifth of its size.
THIN = """async () => {
  const { View } = await import("/static/annotate/view.js");
  const { LabelMap } = await import("/static/annotate/label_map.js");
  const stage = document.createElement("div");
  const add = (kind, id) => stage.append(Object.assign(document.createElement(kind), { id }));
  for (const id of ["image", "heat", "labels", "outlines"]) add("canvas", id);
  for (const id of ["layers", "brush"]) add("div", id);
  Object.assign(stage.style, { position: "fixed", left: 0, top: 0, width: "224px", height: "224px" });
  document.body.append(stage);
  const labels = new LabelMap(1000, 1000), bitmap = await createImageBitmap(new ImageData(10, 10));
  const view = new View(stage);
  const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  view.open({ width: 1000, height: 1000, bitmap, heat: null, labels });
  await frame();
  const draw = async (from, to, radius, value) => {
    labels.begin();
    view.touch(labels.line(from, to, radius, value));
    labels.end();
    await frame();
    const rgba = view.canvases.labels.getContext("2d").getImageData(0, 0, 224, 224).data;
    return Array.from({ length: 224 * 224 }, (_, at) => rgba[4 * at + 3] && rgba[4 * at] > 100 ? 1 : 0);
  };
  const line = await draw({ x: 100, y: 300 }, { x: 900, y: 500 }, 0.5, 1);
  const parts = await draw({ x: 500, y: 0 }, { x: 500, y: 999 }, 40, 0);
  view.repaint();
  await frame();
  const whole = await draw({ x: 0, y: 0 }, { x: 0, y: 0 }, 0.1, 0);
  stage.remove();
  return { scale: view.scale, line, parts, whole };
}"""
SIZES = {
    "wide": (1440, 900),
    "tablet": (820, 1180),
    "phone": (390, 844),
    "at 200 %": (720, 450),
    "sideways": (844, 390),
}


def ink(page: Page, x: float, y: float, right: float = 0) -> list[int]:
    page.evaluate("() => new Promise(requestAnimationFrame)")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    across, down = at(page, x, y)
    found: list[int] = page.evaluate(INK, [across + right, down])
    return found


def test_a_returned_image_shows_the_note_and_the_own_drawing(desk: Desk, server: Server) -> None:
    """Desks 2.1; and 2.21: the answer is found among one's own and opened again."""
    page = desk()
    image = shown(page)
    stroke(page, (0.25, 0.5), (0.75, 0.5))
    drawn = seen(page)
    go_on(page, "Enter", image)
    page.keyboard.press("o")
    page.locator("#answer-text").fill("DRAWN hand")
    page.locator("#answer-list button").first.click()
    expect(page.locator("#layers")).to_have_attribute("data-image", image, timeout=PATIENCE_MS)
    assert np.array_equal(seen(page), drawn)
    note = "Trace the letter more tightly, please."
    which = Which(image=image, author="annotator", revision=1)
    review_labels(server.workspace, Verdict(labels=[which], verdict="rejected", note=note), "curator")
    page.evaluate("localStorage.clear()")
    page.goto(f"{server.url}/annotate?image={image}")
    expect(page.locator("#returned")).to_have_text(f"Returned by a curator: {note}", timeout=PATIENCE_MS)
    assert shown(page) == image and np.array_equal(seen(page), drawn)
    stroke(page, (0.25, 0.7), (0.75, 0.7))
    changed = seen(page)
    go_on(page, "Enter", image)
    expect(page.locator("#returned")).to_be_hidden()
    assert np.array_equal(stored(server.workspace, image), changed)
    label = newest(server.workspace, image)
    assert label is not None and label.revision == 2


def test_looking_changes_nothing_that_is_stored(desk: Desk, server: Server) -> None:
    """Desks 2.8, 2.9, 2.10, 2.13, 2.21: fit, outline, opacity, brightness, smooth, zoom, a still panel."""
    page = desk()
    image = shown(page)
    stage, frame = page.locator("#stage").bounding_box(), page.locator("#layers").bounding_box()
    assert stage and frame
    free = min(stage["width"], stage["height"])
    assert 0.94 * free < frame["height"] < free, (
        "it fills what is free, not a whole multiple of its 64 pixels"
    )
    expect(page.locator("#zoom")).to_have_text(f"{100 * frame['width'] / 64:,.0f} %")
    stroke(page, (0.25, 0.25), (0.75, 0.25))
    drawn = seen(page)
    page.locator("#looks summary").click()
    for name, value in (("fill", 20), ("brightness", 180), ("contrast", 70)):
        page.locator(f"#{name}").fill(str(value))
    inside = ink(page, 0.5, 0.25)
    assert inside[3] == 51, "a fifth of 255"
    row = int(0.25 * 64)
    edge = int(np.nonzero(drawn[row])[0][0]) / 64
    assert ink(page, edge, (row + 0.5) / 64, 1)[3] == 255, "the outline stays opaque inside the label"
    assert ink(page, edge, (row + 0.5) / 64, -1)[:3] == [0, 0, 0], "and dark outside of it"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('#image')).filter")
        == "brightness(1.8) contrast(0.7)"
    )
    page.locator("#stage").focus()
    page.keyboard.press("p")
    until(  # the next frame is painted so
        page, "!(document.querySelector('#image').getContext('2d').imageSmoothingEnabled || smooth.checked)"
    )
    places = set()
    for key in "bewlvfb":
        page.keyboard.press(key)
        places.add(page.locator("#classes").bounding_box()["y"])  # type: ignore[index]
    assert len(places) == 1, "no tool moves what stands below it"
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-ready", "true", timeout=PATIENCE_MS)
    expect(page.locator("#brightness")).to_have_value("180")
    assert np.array_equal(seen(page), drawn)
    go_on(page, "Enter", image)
    assert np.array_equal(stored(server.workspace, image), drawn)


def test_a_stroke_repaints_its_own_part_and_none_is_too_thin_to_be_seen(desk: Desk) -> None:
    found = desk().evaluate(THIN)
    assert found["scale"] == pytest.approx(0.2)
    line, parts, whole = (np.array(found[name]).reshape(224, 224) for name in ("line", "parts", "whole"))
    columns = np.flatnonzero(line.any(0))
    assert columns[0] <= 33 and columns[-1] >= 191 and (np.diff(columns) == 1).all(), "no gaps"
    rows = 72 + (columns - 32) / 4
    assert np.abs(np.array([np.flatnonzero(line[:, column]).mean() for column in columns]) - rows).max() < 2
    assert not parts[:, 106:118].any() and np.array_equal(parts[:, :102], line[:, :102])
    assert np.array_equal(parts, whole), "what was painted in parts is what is painted at once"


def test_submit_is_in_view_at_every_size(desk: Desk) -> None:
    """Desks 2.11, 2.20."""
    page = desk()
    shown(page)
    for name, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for part in ("submit", "clean", "skip", "help-button"):
            box = page.locator(f"#{part}").bounding_box()
            assert box and box["x"] >= 0 and box["x"] + box["width"] <= width, (name, part)
            assert box["y"] + box["height"] <= height, (name, part)
        stage = page.locator("#stage").bounding_box()
        assert stage and stage["width"] * stage["height"] > 0.3 * width * height, name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_without_a_server_the_desk_says_so_and_goes_on(desk: Desk, server: Server) -> None:
    """Desks 2.12: what was submitted leaves the stage, nothing is lost, and the desk wakes up by itself."""
    page = desk()
    first = shown(page)
    page.wait_for_timeout(500)
    server.stop()
    try:
        for _ in range(3):  # the current image and two that were loaded ahead
            image = shown(page)
            stroke(page, (0.2, 0.2), (0.8, 0.2))
            page.keyboard.press("Enter")
            expect(page.locator(f'#layers[data-image="{image}"]:not([hidden])')).to_have_count(
                0, timeout=PATIENCE_MS
            )
        expect(page.locator("#empty-title")).to_have_text("Cannot reach the server", timeout=PATIENCE_MS)
        expect(page.locator("#empty-text")).to_contain_text("Your answers are safe on this device.")
        expect(page.locator("#outbox-text")).to_contain_text("3 answers saved on this device")
        expect(page.locator("#brush")).to_be_hidden()
        assert "Failed to fetch" not in page.inner_text("body")
    finally:
        server.start()
    expect(page.locator("#outbox")).to_have_attribute("data-waiting", "0", timeout=PATIENCE_MS)
    assert shown(page) != first and stored(server.workspace, first).any()


def test_a_curator_comes_back_to_where_the_image_was_opened(desk: Desk, server: Server) -> None:
    """Desks 2.15."""
    with server.workspace.catalog(read_only=True) as catalog:
        image = catalog.images.find()[-1].id
    page = desk("curator")
    open_for_drawing(server.workspace, image, None, "curator")
    for bad in ("https://example.org/", "//example.org/curate", "/curated"):
        page.goto(f"{server.url}/annotate?image={image}&back={bad}")
        expect(page.locator("body")).to_have_attribute("data-ready", "true", timeout=PATIENCE_MS)
        expect(page.locator("#back")).to_be_hidden()
    page.goto(f"{server.url}/annotate?image={image}&back=%2Fcurate%3Fview%3Dreview")
    expect(page.locator("#back")).to_be_visible(timeout=PATIENCE_MS)
    assert shown(page) == image
    page.keyboard.press("c")
    page.wait_for_url(re.compile(r"/curate\?view=review$"))
    label = newest(server.workspace, image, "curator")
    assert label is not None and label.clean
