"""A model that answers boxes, against a real server: every way in which it may answer otherwise."""

import json
from typing import Any

import numpy as np
import pytest

from dataengine.coordinates import COORDINATES
from dataengine.curation.config import BoxesConfig, EndpointConfig
from dataengine.curation.defect_boxes import MOST_REFUSED, BoxesRefused, DefectLocator, defects_in
from dataengine.defects import importance_map
from dataengine.errors import InputRefused, ServiceAbsent
from tests.dataengine.boxes_server import boxes_server

IMAGE = np.zeros((20, 40, 3), dtype=np.uint8)
BOX = {"bbox": [250, 500, 750, 1000], "type": "artifact", "reason": "six fingers", "importance": 60}
WHOLE = json.dumps([BOX])


def config(url: str, **more: Any) -> BoxesConfig:
    return BoxesConfig(model=url, endpoint=EndpointConfig(timeout_seconds=5, attempts=1), **more)


@pytest.mark.parametrize(
    "answer",
    [
        WHOLE,
        f"```json\n{WHOLE}\n```",
        f"```\n{WHOLE}```",
        f"<think>A hand [1] with {{six}} fingers, so []?</think>\n{WHOLE}",
        f"six fingers </think> {WHOLE}",
        f"<think>…</think><answer>{WHOLE}</answer>",
        f"Here are the defects that I found [see below]:\n{WHOLE}\nI hope this helps.",
        json.dumps({"defects": [BOX]}),
        json.dumps(BOX),
        json.dumps([BOX | {"importance": "60", "bbox": ["250", 500.0, 750, 1000]}]),
        json.dumps([{"box_2d": BOX["bbox"], "label": "artifact", "desc": "six fingers", "importance": 60.4}]),
    ],
)
def test_boxes_are_read_in_all_their_clothes(answer: str) -> None:
    [found] = defects_in(answer, COORDINATES["0-1000"], 20, 40)
    assert found == ((10, 10, 30, 20), "artifact", "six fingers", 60, False)


@pytest.mark.parametrize("answer", ["[]", "```json\n[]\n```", "<think>fine</think>\n[ ]", '{"defects": []}',
                                    "<answer>[]</answer>"])  # fmt: skip
def test_an_empty_list_is_clean(answer: str) -> None:
    assert defects_in(answer, COORDINATES["0-1000"], 20, 40) == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("I see nothing wrong with this image.", "no JSON list of boxes"),
        ("Nothing is broken, so the list [] is empty.", "no JSON list of boxes"),
        ("[1, 2]", "no JSON list of boxes"),
        ("{}", "no JSON list of boxes"),
        ('[{"bbox": [1, 2', "no JSON list of boxes"),
        ("<think>it may be [] or", "no JSON list of boxes"),
        (json.dumps([BOX, BOX | {"importance": 0}]), "its importance is 0"),
        (json.dumps([BOX | {"importance": 0.6}]), "its importance is 0.6"),
        (json.dumps([BOX | {"importance": 130}]), "its importance is 130"),
        (json.dumps([{key: BOX[key] for key in ("bbox", "type", "reason")}]), "a box has no importance"),
        (json.dumps([BOX | {"bbox": [750, 500, 250, 1000]}]), "another order"),
        (json.dumps([BOX | {"bbox": [2000, 2000, 3000, 3000]}]), "lies off the image"),
        (json.dumps([BOX | {"bbox": "left hand"}]), "it has no box"),
        (json.dumps([BOX] * 201), "201 boxes"),
    ],
)
def test_what_is_no_list_of_boxes_is_refused_and_never_clean(answer: str, says: str) -> None:
    with pytest.raises(InputRefused, match=says):
        defects_in(answer, COORDINATES["0-1000"], 20, 40)


def test_the_map_is_the_highest_importance_of_the_boxes_of_each_pixel() -> None:
    boxes = [BOX, BOX | {"bbox": [0, 0, 500, 750], "importance": 100}, BOX | {"importance": 7}]
    found = importance_map(defects_in(json.dumps(boxes), COORDINATES["0-1000"], 20, 40), 20, 40)
    expected = np.zeros((20, 40))
    for y in range(20):
        for x in range(40):
            in_first, in_second = 10 <= x < 30 and 10 <= y < 20, x < 20 and y < 15
            expected[y, x] = 1.0 if in_second else (0.6 if in_first else 0.0)
    assert found.dtype == np.float32 and found.shape == (20, 40)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_prose_is_asked_once_more_and_then_costs_its_image() -> None:
    with boxes_server(
        "I cannot help.", WHOLE, "Sorry.", "Sorry again.", [BOX | {"type": "Misalignment"}]
    ) as server:
        locator = DefectLocator(config(server.url))
        assert len(locator.locate(IMAGE)) == 1 and locator.refused == 0
        first, second = server.texts()
        assert "on a grid of 0 to 1000" in first and "JSON list alone" in second
        assert second.startswith(first) and "I cannot help." in second
        with pytest.raises(BoxesRefused, match=r"gave no usable boxes of it.*Sorry again"):
            locator.locate(IMAGE)
        assert locator.refused == 1 and len(server.asked) == 4
        assert locator.locate(IMAGE) == [], "what differs from the prompt is no artifact"
        assert set(server.sizes()) == {(40, 20)}


def test_a_model_that_never_answers_boxes_is_unusable() -> None:
    with boxes_server("A fine picture.") as server:
        locator = DefectLocator(config(server.url))
        for _ in range(MOST_REFUSED - 1):
            with pytest.raises(BoxesRefused):
                locator.locate(IMAGE)
        with pytest.raises(ServiceAbsent, match="8 images in a row"):
            locator.locate(IMAGE)


def test_a_timeout_is_one_clear_error() -> None:
    with boxes_server(1.5) as server:
        hasty = BoxesConfig(model=server.url, endpoint=EndpointConfig(timeout_seconds=0.2, attempts=1))
        with pytest.raises(ServiceAbsent, match="did not answer in 1 attempts"):
            DefectLocator(hasty).locate(IMAGE)


def test_boxes_come_from_an_endpoint() -> None:
    with pytest.raises(ValueError, match="is no endpoint"):
        BoxesConfig(model="qwen/vl")
