"""Figures of the page itself, in headless Chromium: pointer handler, frames, serialising, the next image."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from tests.bench.annotate_server import PASSWORD, artifact_map, served, soft_image, workspace_with_queue
from tests.bench.harness import Figure, bootstrap, figure, p95
from tests.services import chromium_path
from tests.ui.browsing import FLAGS, WITHOUT_TOUR, until

# Times every pointermove listener from outside, so that the page itself measures nothing.
TIMED_MOVES = """
window.moves = [];
const add = EventTarget.prototype.addEventListener;
EventTarget.prototype.addEventListener = function (kind, listener, how) {
  if (kind !== "pointermove") return add.call(this, kind, listener, how);
  return add.call(this, kind, (event) => {
    const before = performance.now();
    listener(event);
    window.moves.push(performance.now() - before);
  }, how);
};
"""

# From the key to the frame in which the next image stands on the canvas.
TIMED_NEXT = """
window.nexts = [];
addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const before = performance.now(), layers = document.querySelector("#layers"), image = layers.dataset.image;
  const look = () => {
    if (layers.dataset.image === image) return requestAnimationFrame(look);
    const channel = new MessageChannel();
    requestAnimationFrame(() => channel.port1.postMessage(0));
    channel.port2.onmessage = () => window.nexts.push(performance.now() - before);
  };
  requestAnimationFrame(look);
}, true);
"""

SERIALISED = """async (rounds) => {
  const { LabelMap } = await import("/static/annotate/label_map.js");
  const { packed } = await import("/static/annotate/codec.js");
  const times = [];
  for (let round = 0; round < rounds; round++) {
    const labels = new LabelMap(1024, 1024);
    labels.begin();
    for (let region = 0; region < 10; region++) {
      const at = { x: 90 + 95 * region, y: 120 + ((region * 371 + round * 53) % 780) };
      for (let step = 0; step < 24; step++) {
        const to = { x: at.x + 60 * Math.sin(step + round), y: at.y + 60 * Math.cos(1.7 * step) };
        labels.line(at, to, 9 + (region % 5), 1 + (region % 3));
      }
    }
    labels.end();
    const before = performance.now();
    JSON.stringify({ lease: "x", image: "y", revision: 0, label_map: await packed(labels.pixels) });
    times.push(performance.now() - before);
    await new Promise((done) => setTimeout(done, 5));
  }
  return times;
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        yield browser
        browser.close()


def open_desk(browser: Browser, url: str, name: str, *scripts: str) -> Page:
    """The annotation page as somebody, with an image on it."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    for script in (WITHOUT_TOUR, *scripts):
        context.add_init_script(script)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{url}/annotate")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(re.compile("/annotate/?$"))
    page.wait_for_selector("body[data-ready=true]")
    return page


def page_figures(scratch: Path, strokes: int, serialised: int, submits: int) -> list[Figure]:
    """The figures of the page."""
    with chromium() as browser:
        moves, frames = pointer_times(scratch, browser, strokes)
        packing, nexts = task_times(scratch, browser, serialised, submits)
    median = float(np.median(nexts))
    middle = bootstrap(nexts, lambda drawn: float(np.median(drawn)))
    painted = (
        "Chromium's own EventLatency: from a pointer's move to the presented frame that shows it, waiting "
        "for the frame's turn included; 2048², brush of 64 px, software compositing"
    )
    half = bootstrap(frames, lambda drawn: float(np.median(drawn)))
    note = "Enter to the frame with the next image, two prefetched, 1024², artifact map and worker included"
    return [
        p95(
            "pointer_p95_ms", moves, note="pointermove listener, 2048², brush of 64 px, 6 components outlined"
        ),
        figure("frame_p50_ms_2048", np.median(frames), half, "ms", len(frames), painted),
        p95("frame_p95_ms_2048", frames, note=painted),
        p95("serialise_p95_ms", packing, note="label map 1024², 10 regions: runs, deflate, base64, JSON"),
        figure("next_p50_ms", median, middle, "ms", len(nexts), note),
        p95("next_p95_ms", nexts, note=note),
    ]


def pointer_times(scratch: Path, browser: Browser, strokes: int) -> tuple[list[float], list[float]]:
    """Milliseconds of every pointermove listener, and from every move to its frame on the screen, while
    strokes are drawn over a large image."""
    side = 2048
    workspace = workspace_with_queue(
        scratch / "large", [soft_image(0, side)], [artifact_map(0, side)], ["ada"]
    )
    with served(workspace) as url:
        page = open_desk(browser, url, "ada", TIMED_MOVES)
        page.locator("#size").fill("64")
        box = page.locator("#layers").bounding_box()
        assert box
        rng = np.random.default_rng(0)
        for stroke in range(strokes):
            points = rng.uniform(0.05, 0.95, (4, 2))
            if stroke == 1:  # the first stroke warms up
                page.evaluate("window.moves.length = 0")
                browser.start_tracing(page=page, categories=["input.scrolling"])
            page.mouse.move(box["x"] + points[0, 0] * box["width"], box["y"] + points[0, 1] * box["height"])
            page.mouse.down()
            for x, y in points[1:]:
                page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=12)
            page.mouse.up()
        frames = frame_times(browser.stop_tracing())
        times: list[float] = page.evaluate("window.moves")
        page.context.close()
    workspace.close()
    return times, frames


def frame_times(trace: bytes) -> list[float]:
    """Milliseconds of each drag's EventLatency in a trace: from the move to the presented frame."""
    begun: dict[str, float] = {}
    times = []
    for event in json.loads(trace)["traceEvents"]:
        if event["name"] != "EventLatency":
            continue
        key = f"{event['pid']} {event.get('id')} {event.get('id2')}"
        if event["ph"] == "b" and "DRAGGED" in event["args"]["event_latency"]["event_type"]:
            begun[key] = event["ts"]
        elif event["ph"] == "e" and key in begun:
            times.append((event["ts"] - begun.pop(key)) / 1000)
    if not times:
        raise AssertionError("this Chromium's trace tells no drag's EventLatency")
    return times


def task_times(
    scratch: Path, browser: Browser, serialised: int, submits: int
) -> tuple[list[float], list[float]]:
    """Milliseconds to serialise a label map, and from submit to the next image."""
    side, count = 1024, submits + 4
    images = [soft_image(number, side) for number in range(count)]
    maps = [artifact_map(number, side) for number in range(count)]
    workspace = workspace_with_queue(scratch / "tasks", images, maps, ["ada"])
    with served(workspace) as url:
        page = open_desk(browser, url, "ada", TIMED_NEXT)
        packing = page.evaluate(SERIALISED, serialised + 3)[3:]
        for number in range(submits):
            page.wait_for_selector("#stage[data-ready=true]")
            page.keyboard.press("Shift+A")
            time.sleep(0.4)  # a person looks at least this long; the next two are fetched meanwhile
            page.keyboard.press("Enter")
            until(page, "count => window.nexts.length > count", arg=number)
        nexts: list[float] = page.evaluate("window.nexts")
        page.context.close()
    workspace.close()
    return packing, nexts
