"""Pen, fingers, palm and mouse at once: one pointer draws; others, and their cancelling, change nothing.

The page's tools are driven by sequences of pointer events; a model in Python, written after these words, says
what has to be drawn, and NumPy draws it.
"""

import os
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Page

from tests.ui.annotate.test_browser import Desk, desk, server, shown

__all__ = ["desk", "server"]

pytestmark = pytest.mark.browser

EXAMPLES = int(os.environ.get("CLINIC_FUZZ_POINTERS", "100"))
"""A share of the suite's time; CLINIC_FUZZ_POINTERS=2000 is the long form."""
SIDE, RADIUS = 96, 4
PEN, FINGER, OTHER, PALM, MOUSE = "pen", "finger", "other finger", "palm", "mouse"
KINDS = {PEN: "pen", FINGER: "touch", OTHER: "touch", PALM: "touch", MOUSE: "mouse"}
WIDTHS = {PALM: 90}

DRIVE = """async ({ side, radius, events }) => {
  const { PointerTools } = await import("/static/annotate/pointer_tools.js");
  const { LabelMap } = await import("/static/annotate/label_map.js");
  const stage = document.createElement("div"), labels = new LabelMap(side, side);
  stage.setPointerCapture = () => {};
  const nothing = () => {};
  const view = {
    stage, cursor: {}, scale: 1, place: (event) => ({ x: event.clientX, y: event.clientY }),
    touch: nothing, request: nothing, pan: nothing, zoom: nothing, moveCursor: nothing,
  };
  const desk = { labels, tool: "brush", value: 1, radius, pressure: false, changed: nothing, say: nothing };
  const tools = new PointerTools(view, { at: () => -1 }, desk);
  const now = performance.now;
  let clock = 1e6;
  performance.now = () => clock;
  for (const { kind, wait, ...more } of events) {
    clock += wait;
    stage.dispatchEvent(new PointerEvent(kind, { bubbles: true, button: 0, ...more }));
  }
  performance.now = now;
  const painted = [...labels.pixels.keys()].filter((at) => labels.pixels[at]);
  return { painted, steps: labels.done.length, busy: tools.busy };
}"""

Point = tuple[float, float]


@dataclass
class Model:
    """What is drawn, in words: strokes that stay, and the one that is being drawn."""

    kept: list[list[Point]] = field(default_factory=list)
    stroke: list[Point] | None = None
    owner: str | None = None
    moved: bool = False
    fingers: set[str] = field(default_factory=set)
    pen_at: float = -1e9
    clock: float = 1e6

    def step(self, kind: str, who: str, at: Point, wait: float) -> None:
        self.clock += wait
        getattr(self, kind)(who, at)

    def down(self, who: str, at: Point) -> None:
        touches = KINDS[who] == "touch"
        if who == PEN:
            # The pen takes over from fingers; what a finger was drawing is gone.
            self.pen_at = self.clock
            if self.owner and KINDS[self.owner] == "touch":
                self.drop()
            self.fingers.clear()
        if self.owner == who:
            self.keep()
        if who == PALM or (touches and self.clock - self.pen_at < 2000):
            return
        if self.owner and not (touches and KINDS[self.owner] == "touch"):
            return
        if touches:
            self.fingers.add(who)
            if len(self.fingers) > 1:
                # Two fingers move the picture, and what the first one was drawing is gone.
                return self.drop()
        self.owner, self.stroke, self.moved = who, [at], False

    def move(self, who: str, at: Point) -> None:
        if who == PEN:
            self.pen_at = self.clock
        if who == self.owner and self.stroke is not None:
            start = self.stroke[0]
            self.moved |= np.hypot(at[0] - start[0], at[1] - start[1]) > 4
            self.stroke.append(at)

    def up(self, who: str, at: Point) -> None:
        self.fingers.discard(who)
        if who == self.owner:
            self.keep()

    def cancel(self, who: str, at: Point) -> None:
        # A stroke stays, a dab was the hand.
        self.fingers.discard(who)
        if who == self.owner:
            self.keep() if self.moved else self.drop()

    def keep(self) -> None:
        self.kept.append(self.stroke or [])
        self.owner = self.stroke = None

    def drop(self) -> None:
        self.owner = self.stroke = None

    def drawn(self) -> np.ndarray:
        """Pixels whose middle lies within the brush on its way."""
        rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
        found = np.zeros((SIDE, SIDE), dtype=bool)
        for stroke in [*self.kept, *([self.stroke] if self.stroke else [])]:
            for (x0, y0), (x1, y1) in zip([stroke[0], *stroke], stroke, strict=False):
                dx, dy = x1 - x0, y1 - y0
                along = ((columns - x0) * dx + (rows - y0) * dy) / max(dx * dx + dy * dy, 1e-9)
                share = np.clip(along, 0, 1)
                found |= np.hypot(columns - x0 - share * dx, rows - y0 - share * dy) <= RADIUS
        return found


def driven(page: Page, steps: list[tuple[str, str, Point, float]]) -> dict[str, Any]:
    ids = {name: 11 + number for number, name in enumerate(KINDS)}
    events = [
        {
            "kind": f"pointer{kind}", "wait": wait, "pointerId": ids[who], "pointerType": KINDS[who],
            "clientX": at[0], "clientY": at[1], "width": WIDTHS.get(who, 1), "height": 1,
        }
        for kind, who, at, wait in steps
    ]  # fmt: skip
    found: dict[str, Any] = page.evaluate(DRIVE, {"side": SIDE, "radius": RADIUS, "events": events})
    found["pixels"] = np.isin(np.arange(SIDE * SIDE), found["painted"]).reshape(SIDE, SIDE)
    return found


def model_of(steps: list[tuple[str, str, Point, float]]) -> Model:
    model = Model()
    for step in steps:
        model.step(*step)
    return model


@pytest.fixture
def page(desk: Desk) -> Page:
    opened = desk("admin")
    shown(opened)
    return opened


STROKE: list[tuple[str, str, Point, float]] = [
    ("down", PEN, (10.0, 20.0), 10.0),
    *(("move", PEN, (10.0 + 10 * n, 20.0), 10.0) for n in range(1, 4)),
    *(("move", PEN, (10.0 + 10 * n, 20.0), 10.0) for n in range(4, 8)),
    ("up", PEN, (80.0, 20.0), 10.0),
]
REST, NEAR, FAR = (70.0, 70.0), (72.0, 72.0), (90.0, 80.0)
HAND = {
    "rests": [("down", REST)],
    "moves": [("down", REST), ("move", NEAR), ("move", FAR)],
    "lifts": [("down", REST), ("up", REST)],
    "is cancelled": [("down", REST), ("cancel", (0.0, 0.0))],
    "moves and is cancelled": [("down", REST), ("move", FAR), ("cancel", (0.0, 0.0))],
    "comes and goes twice": [("down", REST), ("up", REST), ("down", FAR), ("move", REST), ("up", REST)],
}


def test_a_hand_changes_nothing_of_a_pens_stroke(page: Page) -> None:
    alone = driven(page, STROKE)["pixels"]
    assert np.array_equal(alone, model_of(STROKE).drawn())
    for (name, hand), place, who in product(HAND.items(), (1, 4, 7), (FINGER, PALM, MOUSE)):
        resting = [(kind, who, at, 3000.0) for kind, at in hand]
        found = driven(page, [*STROKE[:place], *resting, *STROKE[place:]])
        assert np.array_equal(found["pixels"], alone), (name, place, who)
        assert found["steps"] == 1 and not found["busy"]


def test_a_hand_that_lay_there_before_the_pen(page: Page) -> None:
    alone = driven(page, STROKE)["pixels"]
    down, drag = ("down", FINGER, REST, 10.0), ("move", FINGER, FAR, 10.0)
    up, cancel = ("up", FINGER, REST, 10.0), ("cancel", FINGER, (0.0, 0.0), 10.0)
    for before, after in product(([down], [down, drag]), ([], [up], [cancel], [drag, up])):
        found = driven(page, [*before, *STROKE, *after])
        assert np.array_equal(found["pixels"], alone) and found["steps"] == 1


def test_a_stroke_stays_when_its_own_pointer_is_cancelled_at_the_end(page: Page) -> None:
    for who in (PEN, FINGER, MOUSE):
        stroke = [(kind, who, at, wait) for kind, _, at, wait in STROKE]
        found = driven(page, [*stroke[:-1], ("cancel", who, (0.0, 0.0), 10.0)])
        assert np.array_equal(found["pixels"], driven(page, stroke)["pixels"]) and found["steps"] == 1
        dab = driven(page, [stroke[0], ("cancel", who, (0.0, 0.0), 10.0)])
        assert not dab["pixels"].any() and dab["steps"] == 0


def test_a_pointer_that_vanished_blocks_nobody_of_its_kind(page: Page) -> None:
    lost = STROKE[:-1]
    again = [
        ("down", PEN, (30.0, 60.0), 10.0),
        ("move", PEN, (60.0, 60.0), 10.0),
        ("up", PEN, (60.0, 60.0), 10.0),
    ]
    found = driven(page, [*lost, *again])
    assert np.array_equal(found["pixels"], model_of([*lost, *again]).drawn()) and found["steps"] == 2


steps = st.lists(
    st.tuples(
        st.sampled_from(["down", "move", "move", "move", "up", "cancel"]),
        st.sampled_from(list(KINDS)),
        st.tuples(st.integers(5, SIDE - 6).map(float), st.integers(5, SIDE - 6).map(float)),
        st.sampled_from([10.0, 10.0, 400.0, 3000.0]),
    ),
    max_size=30,
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(given_steps=steps)
def test_any_sequence_of_several_pointers_against_the_model(
    given_steps: list[tuple[str, str, Point, float]], page: Page
) -> None:
    found, model = driven(page, given_steps), model_of(given_steps)
    expected = model.drawn()
    differing = found["pixels"] != expected
    # Pixels whose middle lies on the brush's rim may fall to either side.
    assert differing.sum() <= 0.02 * expected.sum() + 2, differing.sum()
    assert found["steps"] <= len(model.kept) and found["busy"] == (model.stroke is not None)
