"""The page's arithmetic against ours: components, fills, the packed form, undo; touch, pinch and palm."""

import base64
import json
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from dataengine.masks import components, pack_label_map, unpack_label_map
from tests.ui.annotate.test_browser import Desk, desk, seen, server, shown

__all__ = ["desk", "server"]

pytestmark = pytest.mark.browser

SHAPES = """async ({ confidence, height, width, threshold, points }) => {
  const { components, polygon, flood, regionMask } = await import("/static/annotate/geometry.js");
  const { packed, unpacked } = await import("/static/annotate/codec.js");
  const { LabelMap } = await import("/static/annotate/label_map.js");
  const found = components(Uint8Array.from(confidence), height, width, threshold);
  const labels = new LabelMap(height, width);
  labels.begin();
  for (const region of found.regions) labels.fill(regionMask(found.numbers, width, region), region.box, 1 + (region.number % 3));
  labels.end();
  const text = await packed(labels.pixels), back = await unpacked(text, height * width);
  const inside = polygon(points, height, width);
  const edges = found.regions.map(({ outline }) => {
    let length = 0;
    for (let at = 0; at < outline.length; at += 4) length += Math.abs(outline[at] - outline[at + 2]) + Math.abs(outline[at + 1] - outline[at + 3]);
    return length;
  });
  return {
    numbers: [...found.numbers], areas: found.regions.map(({ area }) => area), edges, text, same: back.every((value, at) => value === labels.pixels[at]),
    polygon: { ...inside.box, mask: [...inside.mask] }, flooded: flood(height, width, 0, 0, (at) => !found.numbers[at]).area,
  };
}"""  # noqa: E501

LARGE = """async (side) => {
  const { LabelMap } = await import("/static/annotate/label_map.js");
  const { runs, unrun } = await import("/static/annotate/codec.js");
  const labels = new LabelMap(side, side), sums = [];
  const sum = () => labels.pixels.reduce((all, value, at) => (all + value * (1 + (at % 8191))) % 1e9, 0);
  sums.push(sum());
  for (let stroke = 0; stroke < 4; stroke++) {
    labels.begin();
    for (let step = 0; step < 6; step++) labels.line({ x: side * stroke / 4, y: side * step / 7 }, { x: side * (stroke + 1) / 4, y: side * (6 - step) / 7 }, 20, 1 + (stroke % 3));
    labels.end();
    sums.push(sum());
  }
  const whole = unrun(runs(labels.pixels), side * side).every((value, at) => value === labels.pixels[at]);
  const back = [];
  while (labels.undo()) back.push(sum());
  while (labels.redo());
  return { sums, back, last: sum(), whole, painted: labels.painted, counted: labels.pixels.filter(Boolean).length };
}"""  # noqa: E501


AT_ONCE = """async ([side, step]) => {
  const { packedAtOnce, unpacked } = await import("/static/annotate/codec.js");
  const pixels = Uint8Array.from({ length: side * side }, (_, at) => (at * step) % 3);
  const text = packedAtOnce(pixels), back = await unpacked(text, side * side);
  return { text, same: back.every((value, at) => value === pixels[at]) };
}"""


@pytest.fixture
def blank(browser: object, server: object) -> Page:
    page = browser.new_page(bypass_csp=True)  # type: ignore[attr-defined]
    page.goto(server.url + "/login")  # type: ignore[attr-defined]
    yield page
    page.close()


def test_shapes_are_those_that_we_compute(blank: Page) -> None:
    rng = np.random.default_rng(3)
    height, width, threshold = 37, 53, 140
    coarse = rng.integers(0, 256, (height, width), dtype=np.uint8)
    points = [{"x": 4.2, "y": 3.1}, {"x": 40.7, "y": 8.4}, {"x": 30.3, "y": 33.9}, {"x": 9.5, "y": 20.2}]
    asked = {"confidence": coarse.ravel().tolist(), "height": height, "width": width}
    found = blank.evaluate(SHAPES, asked | {"threshold": threshold, "points": points})
    numbers, count = components(coarse >= threshold)
    assert np.array_equal(np.reshape(found["numbers"], (height, width)), numbers)
    assert found["areas"] == np.bincount(numbers.ravel())[1:].tolist() and len(found["areas"]) == count
    padded = np.pad(numbers, 1)
    for number, length in enumerate(found["edges"], 1):
        mask = padded == number
        assert length == sum(np.count_nonzero(np.diff(mask, axis=axis)) for axis in (0, 1))
    label_map = np.where(numbers, 1 + numbers % 3, 0).astype(np.uint8)
    packed = base64.b64decode(found["text"])
    assert found["same"] and np.array_equal(unpack_label_map(packed, height, width), label_map)
    assert zlib.decompress(packed) == zlib.decompress(pack_label_map(label_map))
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), bool)
    for a, b in zip(points, points[1:] + points[:1], strict=True):
        crosses = (a["y"] <= rows) != (b["y"] <= rows)
        inside ^= crosses & (a["x"] + (rows - a["y"]) / (b["y"] - a["y"]) * (b["x"] - a["x"]) > columns)
    box = found["polygon"]
    mask = np.zeros((height, width), bool)
    part = np.reshape(box["mask"], (box["height"], box["width"])).astype(bool)
    mask[box["top"] : box["top"] + box["height"], box["left"] : box["left"] + box["width"]] = part
    assert np.array_equal(mask, inside)
    from scipy import ndimage

    outside, _ = ndimage.label(numbers == 0)
    assert found["flooded"] == (np.count_nonzero(outside == outside[0, 0]) if outside[0, 0] else 0)


@pytest.mark.parametrize(("side", "step"), [(9, 0), (181, 1), (400, 1), (362, 1)])
def test_a_map_packed_without_waiting_is_what_we_read(blank: Page, side: int, step: int) -> None:
    """Empty, one block that is nearly full, and several."""
    found = blank.evaluate(AT_ONCE, [side, step])
    wanted = (np.arange(side * side) * step % 3).astype(np.uint8).reshape(side, side)
    assert found["same"]
    assert (unpack_label_map(base64.b64decode(found["text"]), side, side) == wanted).all()


@pytest.mark.parametrize("side", [256, 4096])
def test_undo_and_redo_restore_every_pixel(blank: Page, side: int) -> None:
    found = blank.evaluate(LARGE, side)
    assert found["back"] == found["sums"][-2::-1] and found["last"] == found["sums"][-1]
    assert found["whole"] and found["painted"] == found["counted"] > 0, json.dumps(found)


TOUCH = """(events) => {
  const stage = document.querySelector("#stage");
  stage.setPointerCapture = () => {};
  for (const [kind, more] of events) {
    stage.dispatchEvent(new PointerEvent(kind, { bubbles: true, button: 0, pointerType: "touch", width: 20, height: 20, ...more }));
  }
}"""  # noqa: E501


def test_a_finger_paints_two_pinch_and_the_palm_rests(desk: Desk) -> None:
    page = desk("admin")
    shown(page)
    box = page.locator("#layers").bounding_box()
    assert box

    def place(x: float, y: float, **more: object) -> dict:
        return {"clientX": box["x"] + x * box["width"], "clientY": box["y"] + y * box["height"], **more}

    touch: Callable[..., object] = lambda *events: page.evaluate(TOUCH, [list(one) for one in events])  # noqa: E731
    down, move, up = "pointerdown", "pointermove", "pointerup"
    touch((down, place(0.2, 0.2, pointerId=1, width=90)), (move, place(0.6, 0.2, pointerId=1, width=90)))
    assert not seen(page).any(), "a palm"
    touch((down, place(0.2, 0.2, pointerId=2)), (move, place(0.6, 0.2, pointerId=2)))
    assert seen(page).any()
    touch((down, place(0.8, 0.8, pointerId=3)))
    assert not seen(page).any(), "the second finger takes the stroke back"
    touch((move, place(0.95, 0.95, pointerId=3)))
    wider = page.locator("#layers").bounding_box()
    assert wider and wider["width"] > 1.1 * box["width"] and not seen(page).any()
    touch((up, place(0.6, 0.2, pointerId=2)), (up, place(0.95, 0.95, pointerId=3)))
    page.keyboard.press("0")
    pen = {"pointerType": "pen", "pointerId": 9, "pressure": 0.5, "width": 1, "height": 1}
    touch((down, place(0.3, 0.7, **pen)), (move, place(0.6, 0.7, **pen)), (up, place(0.6, 0.7, **pen)))
    drawn = seen(page)
    touch((down, place(0.2, 0.2, pointerId=4)), (move, place(0.6, 0.2, pointerId=4)))
    assert drawn.any() and np.array_equal(seen(page), drawn), "while a pen is in use, touch does not paint"
    expect(page.locator("#undo")).to_be_enabled()
