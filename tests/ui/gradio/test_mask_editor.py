"""The mask editor in a Gradio app, by Chromium and by gradio_client."""

import base64
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image as Picture
from playwright.sync_api import Browser, Locator, Page

from dataengine.masks import unpack_label_map
from tests.ui.browsing import until
from ui.gradio.mask_editor import ArtifactMaskEditor

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]
HEIGHT, WIDTH = 120, 160
CLASSES = ["shape", "content", "watermark"]
SIZE = (HEIGHT, WIDTH)
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH] + 0.5


def picture(number: int) -> np.ndarray:
    """A grey image with a red square of 40 pixels at (60, 40), another grey for every number."""
    pixels = np.full((HEIGHT, WIDTH, 3), 90 + 10 * number, dtype=np.uint8)
    pixels[40:80, 60:100] = (200, 30, 30)
    return pixels


def spots() -> np.ndarray:
    """Confidence: a block of 20×20 at (10, 10), which is sure, and one at (130, 90), which is less."""
    found = np.zeros(SIZE, dtype=np.float32)
    found[10:30, 10:30] = 0.9
    found[90:110, 130:150] = 0.6
    return found


@dataclass
class App:
    """A running app and what its handlers have been given."""

    url: str = ""
    values: list[Any] = field(default_factory=list)
    changes: int = 0
    inputs: int = 0
    answer: Any = None
    """What the button "Set" sets."""
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    app = App()

    def read(value: Any) -> str:
        app.values.append(value)
        return f"read {len(app.values)}"

    def answer() -> Any:
        app.go.wait(20)
        return app.answer

    def changed() -> None:
        app.changes += 1

    def drawn() -> None:
        app.inputs += 1

    with gr.Blocks(analytics_enabled=False) as demo:
        value = {"image": picture(0), "confidence": spots()}
        first = ArtifactMaskEditor(value, classes=CLASSES, height=420, elem_id="first")
        second = ArtifactMaskEditor(picture(1), height=300, elem_id="second")
        said = gr.Textbox(label="Said")
        gr.Button("Read").click(read, first, said, api_name="read")
        gr.Button("Read second").click(read, second, said, api_name=False)
        gr.Button("Set").click(answer, None, first, api_name=False, show_progress="hidden")
        first.submit(read, first, said, api_name=False)
        second.change(changed, api_name=False)
        first.input(drawn, api_name=False)
        gr.Button("Echo").click(lambda value: value, first, second, api_name="echo")
    _, app.url, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1")
    yield app
    demo.close()


@pytest.fixture(scope="module")
def opened(app: App, browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 1400})
    problems: list[str] = []
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(app.url)
    yield page
    context.close()
    assert not problems, problems


@pytest.fixture
def page(app: App, opened: Page) -> Page:
    """The page with the first image, nothing painted, no history, and the brush of 10 pixels."""
    app.values.clear()
    for number in (9, 0):
        put(app, opened, {"image": picture(number), "confidence": spots(), "threshold": 0.425})
    opened.wait_for_selector("#first [data-id=stage][data-ready=true][data-regions='2']")
    opened.locator("#first button[data-tool=brush]").click()
    opened.locator("#first [data-id=size]").fill("10")
    opened.locator("#first [data-value='1']").click()
    return opened


def put(app: App, page: Page, value: Any) -> None:
    """Set the first editor's value from Python and wait until its image is shown."""
    shown = page.locator("#first [data-id=layers]")
    before = shown.get_attribute("data-image")
    app.answer = value
    app.go.set()
    page.get_by_role("button", name="Set", exact=True).click()
    until(
        page,
        """before => document.querySelector("#first [data-id=layers]").dataset.image !== before""",
        arg=before,
    )


def layers(page: Page, editor: str = "first") -> Locator:
    return page.locator(f"#{editor} [data-id=layers]")


def at(page: Page, x: float, y: float, editor: str = "first") -> tuple[float, float]:
    """The place on the page of a point in image pixels."""
    box = layers(page, editor).bounding_box()
    assert box
    return box["x"] + x * box["width"] / WIDTH, box["y"] + y * box["height"] / HEIGHT


def drag(page: Page, *points: tuple[float, float], editor: str = "first", release: bool = True) -> None:
    page.mouse.move(*at(page, *points[0], editor))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(page, *point, editor), steps=4)
    if release:
        page.mouse.up()


def read(app: App, page: Page, button: str = "Read") -> Any:
    """The value as a handler gets it, now."""
    count = len(app.values)
    page.get_by_role("button", name=button, exact=True).click()
    return awaited(app, page, count)


def awaited(app: App, page: Page, count: int) -> Any:
    for _ in range(300):
        if len(app.values) > count:
            return app.values[count]
        page.wait_for_timeout(50)
    raise AssertionError("no value came")


def near(start: tuple[float, float], end: tuple[float, float], radius: float) -> np.ndarray:
    """The pixels whose middle lies within `radius` of a segment."""
    (ax, ay), (bx, by) = start, end
    length = max(1e-9, (bx - ax) ** 2 + (by - ay) ** 2)
    along = np.clip(((COLUMNS - ax) * (bx - ax) + (ROWS - ay) * (by - ay)) / length, 0, 1)
    return np.hypot(COLUMNS - ax - along * (bx - ax), ROWS - ay - along * (by - ay)) <= radius


def differ(one: np.ndarray, other: np.ndarray) -> int:
    return int((one != other).sum())


def test_a_stroke_is_in_the_value_at_once_and_exact(app: App, page: Page) -> None:
    drag(page, (20, 60), (90, 60))
    value = read(app, page)
    assert value["label_map"].dtype == np.uint8 and value["label_map"].shape == SIZE
    assert differ(value["label_map"] == 1, near((20, 60), (90, 60), 5)) <= 12
    assert (value["image"] == picture(0)).all() and value["image"].dtype == np.uint8
    assert value["classes"] == CLASSES and value["threshold"] == 0.425
    assert np.abs(value["confidence"] - spots()).max() <= 1 / 509


def test_eraser_lasso_fill_and_wand(app: App, page: Page) -> None:
    drag(page, (20, 60), (90, 60))
    page.keyboard.press("e")
    drag(page, (55, 40), (55, 80))
    page.keyboard.press("2")
    page.keyboard.press("l")
    drag(page, (110, 10), (150, 10), (150, 40), (110, 40), (110, 11))
    got = read(app, page)["label_map"]
    kept = near((20, 60), (90, 60), 5) & ~near((55, 40), (55, 80), 5)
    assert differ(got == 1, kept) <= 16
    square = (COLUMNS > 110) & (COLUMNS < 150) & (ROWS > 10) & (ROWS < 40)
    assert differ(got == 2, square) <= 60, "a drawn loop is as exact as the pointer's steps"
    page.locator("#first [data-id=stage]").focus()
    page.keyboard.press("3")
    page.keyboard.press("f")
    page.mouse.click(*at(page, 130, 25))
    got = read(app, page)["label_map"]
    assert differ(got == 3, square) <= 60 and not (got == 2).any()
    page.locator("#first [data-id=stage]").focus()
    page.keyboard.press("w")
    drag(page, (52, 32), (108, 32), (108, 88), (52, 88), (52, 33))
    got = read(app, page)["label_map"]
    red = np.zeros(SIZE, dtype=bool)
    red[40:80, 60:100] = True
    assert (got[red] == 3).mean() > 0.97 and (got[45:75, 52:58] != 3).mean() > 0.9


def test_suggestions_are_accepted_by_a_click_at_the_chosen_threshold(app: App, page: Page) -> None:
    page.locator("#first [data-id=stage]").focus()
    page.keyboard.press("v")
    page.keyboard.press("2")
    page.mouse.click(*at(page, 20, 20))
    got = read(app, page)["label_map"]
    assert (got[10:30, 10:30] == 2).all() and (got > 0).sum() == 400
    page.locator("#first [data-id=threshold]").fill("80")
    page.wait_for_selector("#first [data-id=stage][data-regions='1']")
    page.locator("#first [data-id=threshold]").dispatch_event("change")
    assert read(app, page)["threshold"] == 0.8


def test_undo_and_redo_by_keys_and_buttons(app: App, page: Page) -> None:
    drag(page, (20, 60), (60, 60))
    drag(page, (20, 90), (60, 90))
    both = read(app, page)["label_map"]
    page.locator("#first [data-id=stage]").focus()
    page.keyboard.press("Control+z")
    one = read(app, page)["label_map"]
    assert (one[85:95] == 0).all() and (one[55:65] == both[55:65]).all() and one.any()
    page.locator("#first [data-id=undo]").click()
    assert not read(app, page)["label_map"].any()
    page.locator("#first [data-id=stage]").focus()
    page.keyboard.press("Control+Shift+Z")
    page.keyboard.press("Control+Shift+Z")
    assert (read(app, page)["label_map"] == both).all()


def test_enter_submits_what_has_just_been_drawn(app: App, page: Page) -> None:
    page.locator("#first [data-id=stage]").focus()
    for number in range(5):
        drag(page, (20, 20 + 18 * number), (100, 20 + 18 * number))
        page.keyboard.press("Enter")
        got = awaited(app, page, number)["label_map"]
        assert got[20 + 18 * number, 60] == 1, f"stroke {number} is missing"


def test_a_stroke_is_an_input_and_a_value_that_python_sets_is_none(app: App, page: Page) -> None:
    before = app.inputs
    drag(page, (20, 40), (60, 40))
    read(app, page)
    assert app.inputs == before + 1
    put(app, page, {"image": picture(2)})
    read(app, page)
    assert app.inputs == before + 1


def test_keys_act_on_the_editor_with_the_focus(app: App, page: Page) -> None:
    page.locator("#second [data-id=stage]").focus()
    page.keyboard.press("e")
    assert page.locator("#second [data-id=stage]").get_attribute("data-tool") == "eraser"
    assert page.locator("#first [data-id=stage]").get_attribute("data-tool") == "brush"
    page.keyboard.press("b")
    before = app.changes
    drag(page, (40, 50), (110, 50), editor="second")
    assert not read(app, page)["label_map"].any()
    value = read(app, page, "Read second")
    assert value["label_map"].any() and value["classes"] == ["artifact"]
    assert app.changes > before


def test_a_value_of_the_same_image_keeps_the_stroke_under_way(app: App, page: Page) -> None:
    given = np.zeros(SIZE, dtype=np.uint8)
    given[0:10] = 3
    app.answer, drawn = (
        {"image": picture(0), "confidence": spots(), "label_map": given},
        near((20, 60), (90, 60), 5),
    )
    app.go.clear()
    page.get_by_role("button", name="Set", exact=True).click()
    drag(page, (20, 60), (60, 60), release=False)
    app.go.set()
    until(
        page, """() => document.querySelector("#first [data-value='3'] .count").textContent === "1,600 px" """
    )
    page.mouse.move(*at(page, 90, 60), steps=4)
    page.mouse.up()
    got = read(app, page)["label_map"]
    assert (got[0:10] == 3).all() and differ(got == 1, drawn) <= 12
    page.locator("#first [data-id=undo]").click()
    assert (read(app, page)["label_map"] == given).all(), "the stroke alone is undone"
    page.locator("#first [data-id=undo]").click()
    assert not read(app, page)["label_map"].any()


def test_another_image_starts_anew(app: App, page: Page) -> None:
    drag(page, (20, 60), (60, 60))
    given = np.zeros(SIZE, dtype=np.uint8)
    given[5, 7] = 2
    put(app, page, {"image": picture(3), "label_map": given, "classes": ["a", "b"]})
    value = read(app, page)
    assert (value["label_map"] == given).all() and value["classes"] == ["a", "b"]
    assert value["confidence"] is None and (value["image"] == picture(3)).all()
    assert page.locator("#first [data-id=undo]").is_disabled()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"label_map": np.zeros((WIDTH, HEIGHT), dtype=np.uint8)}, "label map is (160, 120)"),
        ({"image": np.broadcast_to(np.uint8(0), (10_000, 10_000, 3))}, "exceed the limit of 64000000"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_and_nothing_is_lost(
    app: App, page: Page, bad: dict[str, Any], words: str
) -> None:
    drag(page, (20, 60), (60, 60))
    before = read(app, page)["label_map"]
    app.answer = {"image": picture(0)} | bad
    page.get_by_role("button", name="Set", exact=True).click()
    toast = page.locator(".toast-body")
    toast.first.wait_for()
    assert words in toast.first.inner_text()
    page.locator(".toast-close").first.click()
    after = read(app, page)["label_map"]
    assert before.any() and (after == before).all()


def test_the_look_follows_the_theme(app: App, opened: Page) -> None:
    grounds = []
    for dark in (False, True):
        opened.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        grounds.append(
            opened.locator("#first .tools").evaluate(
                "tools => [getComputedStyle(tools).backgroundColor, getComputedStyle(tools).color]"
            )
        )
    opened.evaluate("document.body.classList.remove('dark')")
    (light, ink), (night, chalk) = grounds
    assert light == "rgb(255, 255, 255)" and light != night and ink != chalk


def test_a_client_without_a_browser_makes_the_round(app: App, tmp_path: Path) -> None:
    Picture.fromarray(picture(0)).save(tmp_path / "image.png")
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[3:9, 4:50] = 2
    Picture.fromarray(labels).save(tmp_path / "labels.png")
    client = Client(app.url, verbose=False, download_files=str(tmp_path))
    sent = {"image": handle_file(tmp_path / "image.png"), "label_map": handle_file(tmp_path / "labels.png")}
    app.values.clear()
    client.predict(sent, api_name="/read")
    assert (app.values[0]["label_map"] == labels).all() and (app.values[0]["image"] == picture(0)).all()
    echoed = client.predict(sent, api_name="/echo")
    packed = base64.b64decode(echoed["label_map"])
    assert (unpack_label_map(packed, HEIGHT, WIDTH) == labels).all()
    again = client.predict({**echoed, "image": handle_file(echoed["image"])}, api_name="/read")
    assert again == "read 2" and (app.values[1]["label_map"] == labels).all()


def test_a_client_cannot_read_files_of_the_server(app: App) -> None:
    client = Client(app.url, verbose=False)
    app.values.clear()
    for image in ({"path": "/etc/hostname"}, {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}):
        with pytest.raises(Exception, match=r"."):
            client.predict({"image": image}, api_name="/read")
    assert not app.values
