"""Regions of every kind as Label Studio writes them: what they mark, and what costs itself alone."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter import brush as sdk
from label_studio_sdk.converter.utils import convert_annotation_to_yolo_obb
from PIL import Image as Pillow

from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.label_studio.regions import Drawing, draw, kinds_aside, notes_aside
from pipelines.exchange.label_studio.tasks import brush_results
from tests.pipelines.exchange import layouts
from tests.pipelines.exchange.test_shapes import agree, distance_to_edges, is_inside

HEIGHT, WIDTH = 30, 40
OPTIONS = ImportOptions(path=Path())
SQUARE = {"points": [[10, 20], [50, 20], [50, 80], [10, 80]], "closed": True}
"""Columns 4 to 19 and rows 6 to 23 of 40 × 30 pixels."""
TWO_CLASSES = ["shape distortion", "watermark"]
UNSIZED = {"original_width": None, "original_height": None}


def region(kind: str, value: Any, **more: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"id": "r1", "type": kind, "from_name": "tag", "to_name": "image", "value": value, **size, **more}


def labelled(
    kind: str, value: dict[str, Any], label: str = "shape distortion", **more: Any
) -> dict[str, Any]:
    return region(kind, value | {kind: [label]}, **more)


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[6:24, 4:20] = True
    return mask


def stroke(mask: np.ndarray | None = None) -> dict[str, Any]:
    mask = square() if mask is None else mask
    return {"format": "rle", "rle": sdk.mask2rle(mask.astype(np.uint8) * 255)}


def bitmask(mode: str = "RGBA", size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    picture = Pillow.new("RGBA", size)
    picture.paste((0, 0, 0, 255), (4, 6, 20, 24))
    file = io.BytesIO()
    picture.convert(mode).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def drawn(*results: Any, options: ImportOptions = OPTIONS) -> Drawing:
    return draw(results, HEIGHT, WIDTH, options)


def test_our_own_regions_are_a_label_map_again() -> None:
    size = (layouts.HEIGHT, layouts.WIDTH)
    results = brush_results(layouts.ring(), OPTIONS.classes)
    assert [one["value"]["brushlabels"] for one in results] == [["shape distortion"], ["watermark"]]
    found = draw(results, *size, OPTIONS)
    assert np.array_equal(found.label_map, layouts.ring()) and not found.refused
    assert draw([], *size, OPTIONS) == Drawing(label_map=None)
    assert brush_results(layouts.ring(), OPTIONS.classes, "k") == brush_results(
        layouts.ring(), OPTIONS.classes, "k"
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("brushlabels", stroke()),
        ("polygonlabels", SQUARE),
        ("polygonlabels", {"points": SQUARE["points"]}),
        ("rectanglelabels", {"x": 10, "y": 20, "width": 40, "height": 60, "rotation": 0}),
        ("rectanglelabels", {"x": 10, "y": 20, "width": 40, "height": 60}),
        # Turned by a quarter about its corner: 40 % of 40 pixels are 16, as are 53⅓ % of 30.
        ("rectanglelabels", {"x": 50, "y": 20, "width": 45, "height": 160 / 3, "rotation": 90}),
        ("rectanglelabels", {"x": 50, "y": 80, "width": 40, "height": 60, "rotation": -180}),
        ("bitmasklabels", {"format": "png", "imageDataURL": bitmask()}),
        ("bitmasklabels", {"imageDataURL": bitmask("LA")}),
    ],
)
def test_one_square_in_every_shape(kind: str, value: dict[str, Any]) -> None:
    for results in (
        [labelled(kind, value)],
        [labelled(kind, value, **UNSIZED)],
        # The tags apart: a shape without a label, and its label, under one id.
        [region(kind.removesuffix("labels"), value), labelled("labels", value)],
        [labelled("labels", value), region(kind.removesuffix("labels"), value)],
    ):
        found = drawn(*results)
        assert found.label_map is not None and not found.refused and not found.left_out
        assert np.array_equal(found.label_map == 1, square()) and found.label_map.max() == 1


def test_a_magic_wand_is_a_brush() -> None:
    for results in (
        [region("magicwand", stroke()), labelled("labels", stroke(), "watermark")],
        [region("magicwand", stroke() | {"brushlabels": ["watermark"]})],
        [labelled("brushlabels", stroke(), "watermark", from_name="wand")],
    ):
        found = drawn(*results).label_map
        assert found is not None and np.array_equal(found == 3, square())


@pytest.mark.parametrize("degrees", [15, 90, 137.5, 270, -30, 359])
def test_turned_rectangles_where_the_sdk_puts_their_corners(degrees: float) -> None:
    value = {"x": 42.0, "y": 31.0, "width": 37.0, "height": 22.0, "rotation": degrees}
    corners = convert_annotation_to_yolo_obb(
        value | {"original_width": WIDTH, "original_height": HEIGHT}, normalize=False
    )
    found = drawn(labelled("rectanglelabels", value)).label_map
    assert found is not None and found.any()
    for row in range(HEIGHT):
        for column in range(WIDTH):
            if distance_to_edges(corners, column + 0.5, row + 0.5) > 1e-5:
                assert bool(found[row, column]) == is_inside(corners, column + 0.5, row + 0.5)


def test_an_ellipse_by_its_equation() -> None:
    """Half-axes of 12 and 6 pixels, upright by a quarter turn: 6 across and 12 down."""
    value = {"x": 50, "y": 50, "radiusX": 30, "radiusY": 20, "rotation": 90}
    found = drawn(labelled("ellipselabels", value)).label_map
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert np.array_equal(found == 1, ((columns - 20) / 6) ** 2 + ((rows - 15) / 12) ** 2 <= 1)
    flat = drawn(labelled("ellipselabels", value | {"rotation": 0})).label_map
    assert np.array_equal(flat == 1, ((columns - 20) / 12) ** 2 + ((rows - 15) / 6) ** 2 <= 1)


def test_polygons_by_the_exact_test_of_centres() -> None:
    points = [[15, 20], [45, 20], [82.5, 71.3], [45, 60]]
    found = drawn(labelled("polygonlabels", {"points": points, "closed": True})).label_map
    assert found is not None
    corners = [(x * WIDTH / 100, y * HEIGHT / 100) for x, y in points]
    agree(found[:HEIGHT, :WIDTH], corners, 0.3)


ASIDE = [
    region("choices", {"choices": ["bad"]}),
    region("choices", {"choices": ["bad"]} | SQUARE, id="per region"),
    region("textarea", {"text": ["six fingers"]} | stroke()),
    region("taxonomy", {"taxonomy": [["a", "b"]]}),
    region("rating", {"rating": 4}),
    region("number", {"number": 7.5}),
    region("datetime", {"datetime": "2026-01-01"}),
    region("ranker", {"ranker": {"a": ["b"]}}),
    region("labels", {"start": 3, "end": 9, "text": "hand", "labels": ["NOUN"]}, to_name="prompt"),
    region("hypertextlabels", {"start": "/p[1]", "hypertextlabels": ["NOUN"]}),
    {"from_id": "r1", "to_id": "r2", "type": "relation", "direction": "right", "labels": []},
]


@pytest.mark.parametrize("aside", ASIDE)
def test_answers_beside_a_stroke_are_left_aside(aside: dict[str, Any]) -> None:
    for results in ([labelled("brushlabels", stroke()), aside], [aside, labelled("brushlabels", stroke())]):
        found = drawn(*results)
        assert np.array_equal(found.label_map == 1, square()) and not found.refused and not found.left_out
    alone = drawn(aside)
    assert alone.label_map is None and alone.refused
    assert aside["type"] in alone.refused[0] and "marks nothing" in alone.refused[0]


def test_kinds_are_noted_once() -> None:
    assert sum(kinds_aside([ASIDE, ASIDE]).values()) == 2 * len(ASIDE)
    notes = notes_aside([ASIDE, ASIDE, [labelled("brushlabels", stroke())]])
    assert len(notes) == len({one["type"] for one in ASIDE})
    assert "results of type choices mark no area and are left aside (4 of them)" in notes


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (labelled("brushlabels", stroke(), original_width=12), "was drawn on"),
        (labelled("brushlabels", stroke(), original_width=HEIGHT, original_height=WIDTH), "was drawn on"),
        (labelled("brushlabels", stroke(), original_width=None), "was drawn on"),
        (labelled("polygonlabels", SQUARE, image_rotation=90), "turned"),
        (labelled("polygonlabels", SQUARE, item_index=2), "picture 2"),
        (labelled("brushlabels", stroke(np.ones((9, 9))), **UNSIZED), "values"),
        (labelled("brushlabels", {"format": "rle", "rle": [1, 2]}), "header"),
        (labelled("brushlabels", {"format": "rle", "rle": "abc"}), "list of numbers"),
        (labelled("brushlabels", stroke(), "no such class"), "no such class.*--class"),
        (region("brush", stroke()), "no label.*--one-class"),
        (region("brushlabels", stroke() | {"brushlabels": TWO_CLASSES}), "2 labels"),
        (labelled("polygonlabels", SQUARE | {"closed": False}), "not closed"),
        (labelled("polygonlabels", {"points": [[1, 2, 3]] * 3}), "pairs"),
        (labelled("polygonlabels", {"points": [[1, float("nan")]] * 3}), "pairs"),
        (labelled("polygonlabels", {"points": "0,0 5,5 9,0"}), "pairs"),
        (labelled("rectanglelabels", {"x": "1", "y": 2, "width": 3, "height": 4}), "numbers x, y"),
        (labelled("rectanglelabels", {"x": 10**400, "y": 2, "width": 3, "height": 4}), "numbers x, y"),
        (labelled("rectanglelabels", {"x": 1, "y": 2, "width": 3, "height": 4, "rotation": "9"}), "rotation"),
        (labelled("rectanglelabels", {"x": 9, "y": 2, "width": -3, "height": 4}), "negative"),
        (labelled("ellipselabels", {"x": 9, "y": 2, "radiusX": 3}), "radiusY"),
        (labelled("vectorlabels", {"vertices": [{"x": 1, "y": 2}]}), "vectorlabels.*not read"),
        (labelled("videorectangle", {"sequence": []}), "videorectangle.*not read"),
        (labelled("novelty", {"blob": 1}), "novelty.*not read"),
        (labelled("bitmasklabels", {"imageDataURL": "data:image/png;base64,iVBORw0KGgo="}), "cannot be read"),
        (labelled("bitmasklabels", {"imageDataURL": "data:image/png;base64,%%"}), "cannot be read"),
        (labelled("bitmasklabels", {"imageDataURL": "https://evil/x.png"}), "cannot be read"),
        (labelled("bitmasklabels", {"imageDataURL": 7}), "cannot be read"),
        (labelled("bitmasklabels", {"imageDataURL": bitmask("L")}), "opaque everywhere"),
        (labelled("bitmasklabels", {"imageDataURL": bitmask(size=(30, 40))}), r"\(40, 30\)"),
        (region("brushlabels", None), "no value"),
        (region("rectanglelabels", [1]), "no value"),
        (3, "no value"),
        (None, "no value"),
    ],
)  # fmt: skip
def test_a_region_that_cannot_be_used_costs_itself(bad: Any, says: str) -> None:
    alone = drawn(bad)
    assert alone.label_map is None and len(alone.refused) == 1
    assert re.search(says, alone.refused[0]), alone.refused
    other = labelled("rectanglelabels", {"x": 0, "y": 0, "width": 5, "height": 10}, "watermark", id="r2")
    found = drawn(bad, other)
    assert found.label_map is not None and (found.label_map > 0).sum() == 6 and len(found.refused) == 1


@pytest.mark.parametrize(
    "empty",
    [
        labelled("keypointlabels", {"x": 10, "y": 10, "width": 0.3}),
        labelled("labels", {"x": 10, "y": 10, "width": 0.3}),
        labelled("polygonlabels", {"points": [[1, 2], [3, 4]], "closed": True}),
        labelled("polygonlabels", {"points": [], "closed": True}),
        labelled("rectanglelabels", {"x": 10, "y": 10, "width": 0, "height": 5}),
        labelled("rectanglelabels", {"x": 200, "y": 10, "width": 9, "height": 5}),
        labelled("ellipselabels", {"x": 10, "y": 10, "radiusX": 0, "radiusY": 0}),
        labelled("brushlabels", stroke(np.zeros((HEIGHT, WIDTH)))),
    ],
)
def test_what_encloses_nothing_is_left_out_and_alone_is_not_clean(empty: dict[str, Any]) -> None:
    found = drawn(empty, labelled("brushlabels", stroke(), id="r2"))
    assert np.array_equal(found.label_map == 1, square())
    assert len(found.left_out) == 1 and "region r1" in found.left_out[0] and not found.refused
    alone = drawn(empty)
    assert alone.label_map is None and "region r1" in alone.refused[0]


def test_labels() -> None:
    mapped = ImportOptions(path=Path(), mapping={"bad hand": "Shape Distortion"}, one_class="watermark")
    found = drawn(region("brush", stroke()), options=mapped).label_map
    assert np.array_equal(found == 3, square())
    both = region("brushlabels", stroke() | {"brushlabels": ["bad hand", "shape distortion"]})
    found = drawn(both, options=mapped).label_map
    assert np.array_equal(found == 1, square())


def test_regions_that_share_an_id_by_mistake_are_two() -> None:
    other = {"x": 75, "y": 0, "width": 25, "height": 10}
    found = drawn(labelled("brushlabels", stroke()), labelled("rectanglelabels", other, "watermark"))
    assert found.label_map is not None and not found.refused
    assert (found.label_map == 1).sum() == square().sum() and (found.label_map == 3).sum() == 30


def test_later_regions_lie_over_earlier_ones() -> None:
    whole = {"x": 0, "y": 0, "width": 100, "height": 100}
    found = drawn(
        labelled("rectanglelabels", whole, "watermark", id="a"), labelled("brushlabels", stroke(), id="b")
    ).label_map
    assert np.array_equal(found, np.where(square(), 1, 3))
