"""The map of Curate with 100,000 images: a frame of panning and zooming, and a lasso around all of them."""

import math
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from dataengine.curation.appearance import APPEARANCE
from storage.accounts import create_user
from storage.opening import create_workspace
from storage.workspace import Workspace
from tests.bench.annotate_server import PASSWORD
from tests.bench.desks_pages import served, signed_in
from tests.bench.harness import Figure, bootstrap, figure, quick
from tests.bench.large_catalog import fill_catalog
from tests.services import chromium_path
from tests.ui.browsing import FLAGS

FRAMES = """async (frames) => {
  const field = document.querySelector(".map-field"), box = field.getBoundingClientRect();
  const at = (name, x, y, more = {}) => new (name === "wheel" ? WheelEvent : PointerEvent)(name, {
    bubbles: true, cancelable: true, pointerId: 1, buttons: 1,
    clientX: box.left + x, clientY: box.top + y, ...more });
  field.setPointerCapture = () => {};
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const times = [];
  for (let frame = 0; frame < frames; frame++) {
    const began = performance.now();
    if (frame % 10 === 0) {
      field.dispatchEvent(at("wheel", box.width / 2, box.height / 2, { deltaY: frame % 20 ? 60 : -60 }));
    } else {
      field.dispatchEvent(at("pointerdown", 300, 300));
      field.dispatchEvent(at("pointermove", 300 + 9 * Math.sin(frame), 300 + 9 * Math.cos(frame)));
      field.dispatchEvent(at("pointerup", 300, 300));
    }
    await painted();
    times.push(performance.now() - began);
  }
  return times;
}"""
"""Milliseconds from an input event to the painted frame, which waits for the screen's next refresh."""


def place_images(workspace: Workspace, seed: int = 0) -> int:
    """Every image of the catalog has a place in one of forty clusters, and features, which say that the map
    is complete."""
    random = np.random.default_rng(seed)
    with workspace.catalog() as catalog:
        ids = catalog.images.ids()
        centres = random.uniform(8_000, 57_000, (40, 2))
        spread = random.normal(0, 2_500, (len(ids), 2))
        places = np.clip(centres[random.integers(40, size=len(ids))] + spread, 0, 65_535)
        catalog.map_places.replace("bench", ids, np.rint(places).astype(np.uint16))
        vectors = random.integers(0, 127, (len(ids), 192)).astype(np.int8)
        catalog.features.add_many(APPEARANCE, dict(zip(ids, vectors, strict=True)))
        catalog.commit()
    return len(ids)


def lasso_seconds(page: Page) -> float:
    """From the release of a lasso around everything until the grid shows its first images."""
    box = page.locator(".map-field").bounding_box()
    assert box is not None
    page.locator(".map-field").focus()
    page.keyboard.press("0")
    page.get_by_role("button", name="Lasso").click()
    x, y, radius = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["height"] * 0.49
    page.mouse.move(x + radius * 1.4, y)
    page.mouse.down()
    for step in range(1, 200):
        turn = 2 * math.pi * step / 200
        page.mouse.move(x + 1.4 * radius * math.cos(turn), y + radius * math.sin(turn))
    began = time.perf_counter()
    page.mouse.up()
    page.get_by_role("button", name="Show in the grid").click()
    page.wait_for_selector("#view[data-ready=images] .tile")
    return time.perf_counter() - began


def map_figures() -> list[Figure]:
    """The time of a frame, of opening the map, and of a lasso around all images."""
    images, frames = (2_000, 20) if quick() else (100_000, 200)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        workspace = create_workspace(Path(folder) / "workspace")
        fill_catalog(workspace.engine, images)
        with workspace.catalog() as catalog:
            create_user(catalog, "ada", PASSWORD, ["admin"], "bench")
            catalog.commit()
        count = place_images(workspace)
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        with served(workspace) as (url, _):
            page = signed_in(browser, url).new_page()
            began = time.perf_counter()
            page.goto(f"{url}/curate?view=map", wait_until="commit")
            page.wait_for_selector(f"canvas.points[data-painted='{count}']", timeout=120_000)
            opened = time.perf_counter() - began
            page.evaluate(FRAMES, 20)  # compiled once
            times = page.evaluate(FRAMES, frames)
            lasso = lasso_seconds(page)
        browser.close()
        workspace.close()
    median = float(np.median(times))
    interval = bootstrap(times, lambda drawn: float(np.median(drawn)))
    note = f"median over panning and zooming {count:,} points at 1280×860; p95 {np.percentile(times, 95):.1f}"
    return [
        figure("map_100k_frame_ms", median, interval, "ms", len(times), note),
        figure("map_open_s", opened, None, "s", 1, f"from the address to {count:,} painted points"),
        figure(
            "map_lasso_s",
            lasso,
            None,
            "s",
            1,
            "a lasso of 200 places around all points, until the grid shows",
        ),
    ]
