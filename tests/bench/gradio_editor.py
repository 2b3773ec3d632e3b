"""The mask editor in Gradio: pointer handler, strokes lost, submit to the next image beside /annotate's."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page

from dataengine.statistics import wilson
from tests.bench.annotate_browser import TIMED_MOVES, TIMED_NEXT, chromium, open_desk
from tests.bench.annotate_server import artifact_map, soft_image, workspace_with_queue
from tests.bench.harness import ROOT, Figure, bootstrap, figure, p95
from tests.bench.mask_editor_app import STROKE_END, STROKE_STEP
from tests.bench.web_server import server_process
from tests.ui.browsing import until

LAYERS = "[data-id=layers]"
READY = "[data-id=stage][data-ready=true]"
LABEL_LAYERS, LABEL_READY = f"#label-editor {LAYERS}", f"#label-editor {READY}:has([data-image])"
PATIENCE = 600
"""Seconds after which something is broken, also on a busy machine."""


def figures(quick: bool) -> list[Figure]:
    """Measure in Chromium."""
    strokes, submits, nexts = (3, 6, 4) if quick else (25, 100, 40)
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        scratch = Path(name)
        moves = pointer_times(browser, scratch, strokes)
        lost = lost_strokes(browser, scratch, submits)
        gradio, annotate = next_times(browser, scratch, nexts)
    middle = bootstrap(gradio, lambda drawn: float(np.median(drawn)))
    ours = float(np.median(annotate))
    return [
        p95("gradio_editor_pointer_p95_ms", moves, note="pointermove listener, 2048², brush of 64 px"),
        figure(
            "gradio_editor_lost",
            lost,
            tuple(submits * bound for bound in wilson(lost, submits)),
            "strokes",
            submits,
            "a stroke, then at once the app's own button: values that reach Python without its end; 1024²",
        ),
        figure(
            "gradio_next_ms",
            float(np.median(gradio)),
            middle,
            "ms",
            len(gradio),
            "tab Label: Enter to the frame with the next image, 1024², map included, nothing fetched ahead; "
            f"in turns with /annotate, which fetches two ahead: {ours:.0f} ms",
        ),
    ]


@contextmanager
def app(side: int, file: Path) -> Iterator[str]:
    """The address of the app in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.mask_editor_app", str(side), str(file)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        url = server.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"{' '.join(command)} ended with {server.wait(20)}")
        yield url
    finally:
        server.terminate()
        server.wait(PATIENCE)


def open_editor(browser: Browser, url: str, *scripts: str) -> Page:
    """The app's page with an image on it."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    for script in scripts:
        context.add_init_script(script)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(url)
    page.wait_for_selector(f"{READY}:not([data-regions='0'])")
    return page


def pointer_times(browser: Browser, scratch: Path, strokes: int) -> list[float]:
    """Milliseconds of every pointermove listener while strokes are drawn over a large image."""
    with app(2048, scratch / "large") as url:
        page = open_editor(browser, url, TIMED_MOVES)
        page.locator("[data-id=size]").fill("64")
        box = page.locator(LAYERS).bounding_box()
        assert box
        rng = np.random.default_rng(0)
        for stroke in range(strokes):
            if stroke == 1:  # the first stroke warms up
                page.evaluate("window.moves.length = 0")
            xs, ys = rng.uniform(0.05, 0.95, (2, 4))
            points = list(zip(box["x"] + xs * box["width"], box["y"] + ys * box["height"], strict=True))
            page.mouse.move(*points[0])
            page.mouse.down()
            for point in points[1:]:
                page.mouse.move(*point, steps=12)
            page.mouse.up()
        times: list[float] = page.evaluate("window.moves")
        page.context.close()
    return times


def lost_strokes(browser: Browser, scratch: Path, submits: int) -> int:
    """Of so many strokes, each followed at once by a button of the app, those whose end the value lacks."""
    side, file = 1024, scratch / "kept"
    with app(side, file) as url:
        page = open_editor(browser, url)
        page.locator("[data-id=size]").fill("6")
        keep = page.get_by_role("button", name="Keep").bounding_box()
        layers = page.locator(LAYERS).bounding_box()
        assert keep and layers
        scale = layers["width"] / side
        for stroke in range(submits):
            y = layers["y"] + scale * (STROKE_STEP * stroke + STROKE_STEP // 2)
            page.mouse.move(layers["x"] + scale * 300, y)
            page.mouse.down()
            page.mouse.move(layers["x"] + scale * (STROKE_END + 2), y, steps=5)
            page.mouse.up()
            page.mouse.click(keep["x"] + keep["width"] / 2, keep["y"] + keep["height"] / 2)
            end = time.monotonic() + PATIENCE
            while not file.exists() or len(file.read_text().splitlines()) <= stroke:
                if time.monotonic() > end:
                    raise RuntimeError(f"the app was not given stroke {stroke} within {PATIENCE} s")
                time.sleep(0.05)
        page.context.close()
    values = [json.loads(line) for line in file.read_text().splitlines()]
    return submits - sum(value[stroke] for stroke, value in enumerate(values))


def next_times(browser: Browser, scratch: Path, nexts: int) -> tuple[list[float], list[float]]:
    """Milliseconds from Enter to the next image on the app's tab Label and on the annotation page, in turns.

    Two people answer the images of one queue, on one server.
    """
    side, count = 1024, 2 * nexts + 8
    images = [soft_image(number, side) for number in range(count)]
    maps = [artifact_map(number, side) for number in range(count)]
    workspace = workspace_with_queue(scratch / "tasks", images, maps, ["ada", "ben"])
    with server_process(ROOT, workspace.path) as server:
        url = server.url
        pages = [
            (open_label_tab(browser, url, "ben", TIMED_NEXT.replace("#layers", LABEL_LAYERS)), LABEL_READY),
            (open_desk(browser, url, "ada", TIMED_NEXT), "#stage[data-ready=true]"),
        ]
        for number in range(nexts):
            for page, ready in pages if number % 2 else reversed(pages):
                page.bring_to_front()
                page.wait_for_selector(ready)
                page.locator(ready).focus()
                page.keyboard.press("Shift+A")
                time.sleep(0.4)  # a person looks at least this long
                page.keyboard.press("Enter")
                until(page, "count => window.nexts.length > count", arg=number)
        gradio, annotate = [page.evaluate("window.nexts") for page, _ in pages]
        for page, _ in pages:
            page.context.close()
    with workspace.catalog(read_only=True) as catalog:
        stored = min(len(catalog.labels.by(name)) for name in ("ada", "ben"))
    workspace.close()
    if stored < nexts:
        raise RuntimeError(f"only {stored} of {nexts} answers were stored")
    return gradio, annotate


def open_label_tab(browser: Browser, url: str, name: str, script: str) -> Page:
    """The Gradio app's tab Label as somebody, with an image on it."""
    page = open_desk(browser, url, name, script)
    page.goto(f"{url}/gradio")
    page.get_by_role("tab", name="Label").click()
    page.wait_for_selector(LABEL_READY)
    return page
