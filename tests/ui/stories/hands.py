"""What the people of the story do with pointer and keyboard."""

import re
from typing import Any

from playwright.sync_api import Page, expect

from tests.ui.browsing import PATIENCE_MS, until

ROUGHNESS = """(sides) => sides.map((side) => {
  const image = document.querySelector(`#stage-${side} img`), canvas = document.createElement("canvas");
  const [width, height] = [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const place = canvas.getContext("2d");
  place.drawImage(image, 0, 0);
  const pixels = place.getImageData(0, 0, width, height).data;
  let sum = 0;
  for (let i = 4; i < pixels.length; i += 4) sum += Math.abs(pixels[i] - pixels[i - 4]);
  return sum;
})"""
"""Sums of the differences between neighbouring pixels: a spoiled image has the larger one."""
PAINTED = """() => {
  const { data } = (({ width, height }, canvas) => canvas.getContext("2d").getImageData(0, 0, width, height))(
    document.getElementById("labels"), document.getElementById("labels"));
  return data.some((value, at) => at % 4 === 3 && value);
}"""


def draw(page: Page, height: float = 0.5) -> None:
    """A stroke across the image on the annotation page, at this share of its height."""
    box = page.locator("#layers").bounding_box()
    assert box
    y = box["y"] + height * box["height"]
    page.keyboard.press("b")
    page.mouse.move(box["x"] + 0.3 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], y, steps=6)
    page.mouse.up()
    expect(page.locator("#undo")).to_be_enabled()


def shown(page: Page) -> str:
    """The id of the image on the canvas."""
    expect(page.locator("#layers")).to_be_visible()
    return page.locator("#layers").get_attribute("data-image") or ""


def label_all(page: Page) -> int:
    """Label every image that waits, alternately with a stroke and as clean; returns how many."""
    count = 0
    while True:
        page.wait_for_selector("#layers:visible, #empty:visible")
        if page.locator("#empty").is_visible():
            break
        image = shown(page)
        if count % 2:
            page.locator("#clean").click()
        else:
            draw(page)
            page.locator("#submit").click()
        count += 1
        until(
            page,
            """(image) => !document.getElementById("empty").hidden
              || document.getElementById("layers").dataset.image !== image""",
            image,
        )
    expect(page.locator("#outbox")).to_have_attribute("data-waiting", "0")
    return count


def judge_all(page: Page) -> int:
    """Judge every pair with keys: the smoother image is the better one; returns how many."""
    bench, count, last = page.locator(".bench"), 0, ""
    while True:
        until(
            page,
            """(last) => !document.querySelector(".over").hidden
              || ![undefined, "", last].includes(document.querySelector(".bench").dataset.ready)""",
            last,
        )
        if page.locator(".over").is_visible():
            return count
        last = bench.get_attribute("data-ready") or ""
        left, right = page.evaluate(ROUGHNESS, ["left", "right"])
        answer = "ArrowRight" if right < left else "ArrowLeft" if left < right else "ArrowDown"
        for _ in range(page.locator(".question").count()):
            page.keyboard.press(answer)
        page.keyboard.press("Enter")
        count += 1


def choose_categories(page: Page, path: str, names: str, each: int) -> None:
    """Let a field of the treatment form have prompts written for these categories."""
    field = page.locator(f'[data-path="{path}"]')
    field.locator("select").select_option("category")
    field.get_by_label("Categories").fill(names)
    field.get_by_label("Prompts per category").fill(str(each))


def tab_count(page: Page, name: str) -> int:
    """The number in a tab of the review page."""
    text = page.get_by_role("tab", name=name).inner_text()
    return int(re.sub(r"\D", "", text) or "0")


def run_succeeds(page: Page, within_ms: float) -> None:
    """Wait until the run on the page has succeeded; a failed one is reported with its reason at once."""
    state: Any = page.locator(".standing .state").first
    expect(state).to_have_text(re.compile("succeeded|failed|cancelled"), timeout=within_ms)
    problem = page.locator(".standing .note.bad")
    assert not problem.count(), problem.inner_text()
    expect(state).to_have_text("succeeded", timeout=PATIENCE_MS)
