"""Headless Chromium on /annotate: what is drawn is what is stored, and nothing is ever lost."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from dataengine.diagnosis.segmenter import load_segmenter
from dataengine.images import decode
from dataengine.masks import unpack_label_map
from dataengine.records import Endpoint, Label, OperatingPoint
from pipelines.worker import inference_server
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests import fakes
from tests.dataengine.diagnosis.test_segmenter import tiny_sam
from tests.ui.browsing import PATIENCE_MS, until
from tests.ui.conftest import SIDE, add_people, furnish
from ui.config import ServerConfig
from ui.server import background

pytestmark = pytest.mark.browser

# Reads the label canvas, what the person sees, as the class at the middle of each image pixel.
SEEN = """(side) => {
  const canvas = document.querySelector("#labels"), { width, height } = canvas;
  const box = (id) => document.querySelector(id).getBoundingClientRect();
  const stage = box("#labels"), frame = box("#layers");
  const rgba = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const classes = { 213: 1, 86: 2, 240: 3 };
  return Array.from({ length: side * side }, (_, at) => {
    const x = Math.floor(frame.left - stage.left + (at % side + 0.5) * frame.width / side);
    const y = Math.floor(frame.top - stage.top + (Math.floor(at / side) + 0.5) * frame.height / side);
    const [red, , , alpha] = rgba.subarray(4 * (y * width + x));
    const nearest = Object.keys(classes).find((one) => Math.abs(red - one) < 4);
    return alpha ? classes[nearest] ?? 0 : 0;
  });
}"""

Desk = Callable[..., Page]


class Server:
    """A server over one workspace that can be stopped and started again at the same address."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.port = 0
        self.url = ""
        self.running = contextlib.ExitStack()

    def start(self) -> None:
        settings = ServerConfig(port=self.port, desks=False)
        self.url = self.running.enter_context(background(self.workspace, settings)).url
        self.port = int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        self.running.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    workspace = create_workspace(Path(tmp_path_factory.mktemp("annotate")) / "w")
    furnish(workspace, 60)
    add_people(workspace)
    server = Server(workspace)
    server.start()
    yield server
    server.stop()
    workspace.close()


@pytest.fixture
def desk(server: Server, visiting: Callable[..., Page]) -> Desk:
    """The annotation page as somebody, with an image on it."""

    def open_desk(name: str = "annotator", **how: object) -> Page:
        page = visiting(server.url, name, "/annotate", **how)
        expect(page.locator("body")).to_have_attribute("data-ready", "true", timeout=PATIENCE_MS)
        return page

    return open_desk


def shown(page: Page) -> str:
    """The id of the image on the page, once it is there."""
    expect(page.locator("#layers")).to_be_visible(timeout=PATIENCE_MS)
    return page.locator("#layers").get_attribute("data-image") or ""


def go_on(page: Page, key: str, image: str) -> None:
    """Press a key that leads to another image, and wait for it and for the server's word."""
    page.keyboard.press(key)
    expect(page.locator("#layers")).not_to_have_attribute("data-image", image, timeout=PATIENCE_MS)
    expect(page.locator("#outbox")).to_have_attribute("data-waiting", "0", timeout=PATIENCE_MS)


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """A place on the image, given as fractions of its size, in the window."""
    box = page.locator("#layers").bounding_box()
    assert box
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def stroke(page: Page, *points: tuple[float, float], release: bool = True) -> None:
    page.mouse.move(*at(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(page, *point), steps=6)
    if release:
        page.mouse.up()


def seen(page: Page) -> np.ndarray:
    page.evaluate("() => new Promise(requestAnimationFrame)")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    return np.array(page.evaluate(SEEN, SIDE), np.uint8).reshape(SIDE, SIDE)


def newest(workspace: Workspace, image_id: str, author: str = "annotator") -> Label | None:
    with workspace.catalog(read_only=True) as catalog:
        return catalog.labels.latest(image_id, author)


def stored(workspace: Workspace, image_id: str, author: str = "annotator") -> np.ndarray:
    label = newest(workspace, image_id, author)
    assert label is not None and label.label_map is not None
    return unpack_label_map(workspace.blobs.get(label.label_map), SIDE, SIDE)


def test_what_is_drawn_is_what_is_stored(desk: Desk, server: Server) -> None:
    page = desk()
    image = shown(page)
    stroke(page, (0.25, 0.5), (0.75, 0.5))
    page.keyboard.press("2")
    page.keyboard.press("l")
    stroke(page, (0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.1, 0.3))
    page.keyboard.press("3")
    for corner in ((0.6, 0.1), (0.9, 0.1), (0.9, 0.3)):
        page.mouse.click(*at(page, *corner))
    page.keyboard.press("Enter")  # closes the corners, does not submit
    page.keyboard.press("e")
    stroke(page, (0.5, 0.45), (0.5, 0.55))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+Shift+z")
    drawn = seen(page)
    assert set(np.unique(drawn)) == {0, 1, 2, 3}
    assert 120 < (drawn == 2).sum() < 200 and 80 < (drawn == 3).sum() < 150
    go_on(page, "Enter", image)
    assert np.array_equal(stored(server.workspace, image), drawn)
    label = newest(server.workspace, image)
    assert label is not None and 0 < label.lead_seconds < 60 and label.source == "person"


def test_suggestions_are_accepted_rejected_and_walked(desk: Desk, server: Server) -> None:
    page = desk()
    image = shown(page)
    page.locator("#threshold").fill("25")
    expect(page.locator("#stage")).to_have_attribute("data-regions", "1", timeout=PATIENCE_MS)
    with server.workspace.catalog(read_only=True) as catalog:
        prediction = catalog.predictions.get(image, "d1")
    assert prediction is not None and prediction.map_ref is not None
    suspected = server.workspace.maps.get(prediction.map_ref) >= 64
    page.locator("#stage").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#message")).to_contain_text("Suggestion 1 of 1")
    page.keyboard.press("2")
    page.keyboard.press("a")
    assert np.array_equal(seen(page) == 2, suspected)
    page.keyboard.press("x")
    assert not seen(page).any()
    rows, columns = np.nonzero(suspected)
    place = (columns.mean() + 0.5) / SIDE, (rows.mean() + 0.5) / SIDE
    page.keyboard.press("v")
    page.mouse.click(*at(page, *place))
    expect(page.locator("#suggestion-count")).to_have_text("1 suggestion, 0 open")
    page.mouse.click(*at(page, *place), button="right")
    assert not seen(page).any()
    page.keyboard.press("Control+z")
    page.keyboard.press("Shift+A")
    go_on(page, "Enter", image)
    assert np.array_equal(stored(server.workspace, image) > 0, suspected)


def test_suggestions_begin_at_the_detectors_operating_point_until_somebody_moves_it(
    desk: Desk, server: Server
) -> None:
    def set_point(point: OperatingPoint) -> None:
        with server.workspace.catalog() as catalog:
            catalog.detectors.set_operating_point("d1", point)
            catalog.commit()

    set_point(OperatingPoint(flagged=0.3, component=0.254, rule="f2"))
    page = desk("curator")
    image = shown(page)
    expect(page.locator("#threshold")).to_have_value("25")
    expect(page.locator("#threshold-value")).to_have_text("25 %")
    expect(page.locator("#stage")).to_have_attribute("data-ready", "true", timeout=PATIENCE_MS)
    with server.workspace.catalog(read_only=True) as catalog:
        prediction = catalog.predictions.get(image, "d1")
    assert prediction is not None and prediction.map_ref is not None
    page.locator("#stage").focus()
    page.keyboard.press("Shift+A")
    # 65 of 255 is the first level from 0.254 on.
    expected = server.workspace.maps.get(prediction.map_ref) >= 65
    assert np.array_equal(seen(page) > 0, expected) and expected.any()
    page.locator("#threshold").fill("60")
    page.locator("#stage").focus()
    go_on(page, "Enter", image)
    expect(page.locator("#threshold")).to_have_value("60")
    set_point(OperatingPoint())


def test_fill_wand_zoom_and_pan(desk: Desk, server: Server) -> None:
    page = desk()
    image = shown(page)
    before = page.locator("#layers").bounding_box()
    page.mouse.move(*at(page, 0.5, 0.5))
    page.mouse.wheel(0, -600)
    until(
        page,
        "box => document.querySelector('#layers').getBoundingClientRect().width > 1.5 * box",
        arg=before and before["width"],
    )
    after = page.locator("#layers").bounding_box()
    assert (
        before and after and abs((after["x"] + after["width"] / 2) - (before["x"] + before["width"] / 2)) < 2
    )
    page.keyboard.down("Space")
    page.mouse.down()
    page.mouse.move(*(value + 40 for value in at(page, 0.5, 0.5)), steps=3)
    page.mouse.up()
    page.keyboard.up("Space")
    moved = page.locator("#layers").bounding_box()
    assert moved and abs(moved["x"] - after["x"] - 40) < 2 and not seen(page).any()
    page.keyboard.press("0")
    page.keyboard.press("w")  # the disc in the middle has one colour
    stroke(page, (0.12, 0.12), (0.88, 0.12), (0.88, 0.88), (0.12, 0.88))
    disc = seen(page) == 1
    rows, columns = np.nonzero(disc)
    assert abs(rows.mean() - 32) < 1 and abs(columns.mean() - 32) < 1 and disc[32, 32] and not disc[8, 8]
    page.keyboard.press("Control+z")
    page.keyboard.press("b")
    stroke(page, (0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2))
    page.keyboard.press("f")
    page.mouse.click(*at(page, 0.02, 0.02))
    ring = seen(page)
    assert not ring[32, 32]
    page.mouse.click(*at(page, 0.5, 0.5))
    filled = seen(page)
    assert filled[32, 32] == 1 and filled.sum() > 1.5 * ring.sum()
    go_on(page, "Enter", image)
    assert np.array_equal(stored(server.workspace, image), filled)


def test_refusals_clean_skip_and_back(desk: Desk, server: Server) -> None:
    page = desk()
    image = shown(page)
    page.keyboard.press("Enter")
    expect(page.locator("#message")).to_contain_text("Nothing is painted")
    stroke(page, (0.3, 0.3), (0.6, 0.3))
    page.keyboard.press("c")
    expect(page.locator("#message")).to_contain_text("erase it first")
    page.keyboard.press("Control+z")
    go_on(page, "c", image)
    assert (label := newest(server.workspace, image)) and label.clean
    second = shown(page)
    page.keyboard.press("Backspace")
    expect(page.locator("#layers")).to_have_attribute("data-image", image, timeout=PATIENCE_MS)
    stroke(page, (0.3, 0.3), (0.6, 0.3))
    go_on(page, "Enter", image)
    assert shown(page) == second and (label := newest(server.workspace, image)) and label.revision == 2
    page.keyboard.press("s")
    page.keyboard.press("1")
    expect(page.locator("#layers")).not_to_have_attribute("data-image", second, timeout=PATIENCE_MS)


def test_a_reload_in_the_middle_of_a_stroke_loses_nothing_before_it(desk: Desk, server: Server) -> None:
    page = desk()
    image = shown(page)
    stroke(page, (0.2, 0.2), (0.8, 0.2))
    drawn = seen(page)
    stroke(page, (0.2, 0.7), (0.5, 0.7), release=False)
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-ready", "true", timeout=PATIENCE_MS)
    assert shown(page) == image
    again = seen(page)
    assert np.array_equal(again[:30], drawn[:30])
    go_on(page, "Enter", image)
    assert np.array_equal(stored(server.workspace, image), again)


def test_a_killed_server_loses_nothing(desk: Desk, server: Server) -> None:
    page = desk()
    first = shown(page)
    server.stop()
    try:
        stroke(page, (0.2, 0.2), (0.8, 0.2))
        one = seen(page)
        page.keyboard.press("Enter")
        expect(page.locator("#layers")).not_to_have_attribute("data-image", first)
        second = shown(page)
        stroke(page, (0.2, 0.6), (0.8, 0.6))
        two = seen(page)
        page.keyboard.press("Enter")
        expect(page.locator("#outbox-text")).to_contain_text("2 answers saved", timeout=PATIENCE_MS)
    finally:
        server.start()
    expect(page.locator("#outbox")).to_have_attribute("data-waiting", "0", timeout=PATIENCE_MS)
    assert np.array_equal(stored(server.workspace, first), one)
    assert np.array_equal(stored(server.workspace, second), two)
    with server.workspace.catalog(read_only=True) as catalog:
        assert [len(catalog.labels.history(image)) for image in (first, second)] == [1, 1]


def test_a_conflict_is_asked_about_again_and_shown_only_if_it_stays(desk: Desk, server: Server) -> None:
    """What another tab sends at the same moment is stored, even when this one hears of a conflict."""
    page = desk()
    conflicts = 1

    def clash(route: Route) -> None:
        nonlocal conflicts
        if not conflicts:
            return route.continue_()
        conflicts -= 1
        route.fetch()
        return route.fulfill(status=409, json={"error": "it was just changed"})

    page.route("**/api/annotate/submit", clash)
    first = shown(page)
    stroke(page, (0.2, 0.2), (0.8, 0.2))
    drawn = seen(page)
    go_on(page, "Enter", first)
    assert np.array_equal(stored(server.workspace, first), drawn)
    expect(page.locator("#refused li")).to_have_count(0)
    conflicts, second = 2, shown(page)
    stroke(page, (0.2, 0.6), (0.8, 0.6))
    go_on(page, "Enter", second)
    expect(page.locator("#refused li")).to_have_count(1)
    assert not conflicts


def test_a_signed_out_session_loses_nothing(desk: Desk, server: Server) -> None:
    page = desk()
    image = shown(page)
    page.context.clear_cookies()
    stroke(page, (0.2, 0.2), (0.8, 0.2))
    drawn = seen(page)
    page.keyboard.press("Enter")
    expect(page.locator("#sign-in")).to_be_visible(timeout=PATIENCE_MS)
    with page.context.expect_page() as opened:
        page.locator("#sign-in").click()
    form = opened.value
    form.get_by_label("Name").fill("annotator")
    form.get_by_label("Password").fill("correct horse battery")
    form.get_by_role("button", name="Sign in").click()
    form.wait_for_url(re.compile("/annotate/?$"))
    expect(page.locator("#outbox")).to_have_attribute("data-waiting", "0", timeout=PATIENCE_MS)
    assert np.array_equal(stored(server.workspace, image), drawn)


def test_two_people_at_once_get_different_images(desk: Desk, server: Server) -> None:
    mine, theirs = desk(), desk("curator")
    first, second = shown(mine), shown(theirs)
    assert first != second
    stroke(mine, (0.2, 0.2), (0.8, 0.2))
    stroke(theirs, (0.2, 0.6), (0.8, 0.6))
    go_on(mine, "Enter", first)
    go_on(theirs, "Enter", second)
    assert newest(server.workspace, first, "curator") is None
    assert stored(server.workspace, second, "curator")[38].any()


def test_a_box_and_clicks_are_segmented(desk: Desk, server: Server, tmp_path: Path) -> None:
    """A tiny SAM in the inference service: every answer takes the place of the one before."""
    segmenter = Endpoint(id="s", kind="segmenter", name="tiny", location=str(tiny_sam(tmp_path)))
    with server.workspace.catalog() as catalog:
        catalog.endpoints.add(segmenter)
        catalog.commit()
    loaded = load_segmenter(segmenter.location)
    with inference_server.listening(server.workspace.path) as listener:
        assert listener is not None
        service = inference_server.Service(server.workspace, fakes.fake_models())
        thread = threading.Thread(target=inference_server.serve, args=(listener, service), daemon=True)
        thread.start()
        page = desk()
        image = shown(page)
        with server.workspace.catalog(read_only=True) as catalog:
            pixels = decode(server.workspace.blobs.get(catalog.images.get(image).sha256))
        page.keyboard.press("g")
        with page.expect_request("**/assist") as asked, page.expect_response("**/assist"):
            stroke(page, (0.7, 0.6), (0.2, 0.3))
        sent = json.loads(asked.value.post_data or "")
        box = sent["box"]
        assert sent["points"] == []
        assert np.allclose(box, [0.2 * SIDE, 0.3 * SIDE, 0.7 * SIDE, 0.6 * SIDE], atol=0.5)
        page.wait_for_timeout(300)
        boxed = loaded.segment("it", pixels, [], box)[1]
        assert boxed.any() and np.array_equal(seen(page), boxed)
        with page.expect_request("**/assist") as asked, page.expect_response("**/assist"):
            page.mouse.click(*at(page, 0.5, 0.5))
        sent = json.loads(asked.value.post_data or "")
        (point,) = sent["points"]
        assert sent["box"] == box and point["inside"]
        expect(page.locator("#undo")).to_be_enabled()
        clicked = loaded.segment("it", pixels, [(point["x"], point["y"], True)], box)[1]
        page.wait_for_timeout(300)
        assert np.array_equal(seen(page), clicked)
        page.keyboard.press("Control+z")
        assert not seen(page).any()
    thread.join()
    with server.workspace.catalog() as catalog:
        catalog.endpoints.remove("s")
        catalog.commit()


def test_keys_can_be_changed_and_follow_the_layout(desk: Desk) -> None:
    page = desk()
    shown(page)
    page.keyboard.press("?")
    page.get_by_role("button", name=re.compile("^Eraser: E")).click()
    page.keyboard.press("q")
    expect(page.get_by_role("button", name=re.compile("^Eraser: Q"))).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("q")
    expect(page.locator("#eraser-tool")).to_have_attribute("aria-pressed", "true")
    written = page.evaluate("""async () => {
      const { actionOf } = await import("/static/annotate/keys.js");
      const press = (key, code, more = {}) => actionOf(new KeyboardEvent("keydown", { key, code, ...more }));
      return [
        press("&", "Digit1"), press("a", "KeyQ"), press("z", "KeyW", { ctrlKey: true }),  // AZERTY
        press("z", "KeyY", { ctrlKey: true }), press("ü", "BracketLeft"),                    // QWERTZ
        press("?", "Minus", { shiftKey: true }),
        press("и", "KeyB"), press("b", "KeyB", { altKey: true }),
      ];
    }""")
    assert written == ["class-1", "accept", "undo", "undo", "smaller", "help", "brush", None]


def test_at_200_percent_and_by_name_everything_is_there(desk: Desk) -> None:
    page = desk()
    page.set_viewport_size({"width": 600, "height": 400})
    shown(page)
    names = "Brush|Lasso|Submit and next|Clean|Skip|Previous image|Triage|Guide|Keys"
    for name in names.split("|"):
        button = page.get_by_role("button", name=name).first
        button.scroll_into_view_if_needed()
        expect(button).to_be_in_viewport()
    unnamed = page.evaluate("""() => [...document.querySelectorAll("button, input, textarea, a")]
      .filter((one) => one.checkVisibility())
      .filter((one) => !(one.ariaLabel || one.textContent.trim() || one.labels?.length))
      .map((one) => one.outerHTML)""")
    assert unnamed == []
