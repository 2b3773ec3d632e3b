"""The page: self-contained, escaped, pictures that decode to what they were."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from pipelines.demo.report import data_uri, edge, format_figure, heat, render_page
from pipelines.reports.contact_sheet import Gallery, Tile

DATA = {
    "title": "A round & more",
    "lead": "<script>alert(1)</script>",
    "cards": [{"label": "error", "before": "0.02", "after": "0.01", "note": "× 0.5"}],
    "figures": [
        {
            "id": "mse_ratio",
            "title": "error",
            "value": 0.5,
            "interval": [0.4, 0.6],
            "goal": "≤ 0.5",
            "met": True,
        },
        {"id": "exact", "title": "found", "value": False, "interval": None, "goal": "yes", "met": False},
    ],
    "stages": [{"stage": "generate", "title": "generate", "seconds": 3.0, "found": "12 images"}],
    "categories": [{"category": "hand", "images": 9, "statistic": 0.9, "limit": 0.4, "hard": True}],
    "categories_lead": "",
    "treatment": {
        "history": [{"update": 1, "confidence": 0.4}, {"update": 2, "confidence": 0.2}],
        "looks": [{"update": 2, "confidence": 0.2, "well": True, "text": "change 0.1"}],
        "kept": 2,
    },
    "treatment_lead": "",
    "made_with": ["two cores"],
}


def gallery(text: str = "a hand") -> Gallery:
    tile = Tile(
        image=np.zeros((8, 8, 3), np.uint8), confidence=np.ones((8, 8), np.float32), text=text, marked=True
    )
    return Gallery(name="mended", title="Mended", lead="", columns=("before", "after"), rows=((tile, tile),))


def test_the_page_needs_nothing_else() -> None:
    html = render_page(DATA, [gallery()])
    assert not re.search(r"<script|(?:src|href)=[\"'](?!data:image/png)|url\(|@import", html)
    assert html.count("data:image/png;base64,") == 4
    assert "Mended" in html and "prefers-color-scheme:dark" in html


def test_what_comes_from_outside_is_escaped() -> None:
    html = render_page(DATA, [gallery('"><img onerror=x>')])
    assert "<script>" not in html and "<img onerror" not in html
    assert "A round &amp; more" in html


def test_met_and_missed_goals_are_told_apart() -> None:
    html = render_page(DATA, [])
    figures = [{**DATA["figures"][0], "unit": "s", "value": 2410.2}]  # type: ignore[dict-item]
    assert "2410 s" in render_page({**DATA, "figures": figures}, [])
    assert html.count('class="pill good"') == html.count('class="pill bad"') == 1


def test_a_round_without_treatment_has_a_page_too() -> None:
    empty = {"history": [], "looks": [], "kept": 0}
    assert "<svg" not in render_page({**DATA, "treatment": empty}, [])


def test_a_picture_survives_its_address() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    encoded = data_uri(pixels).removeprefix("data:image/png;base64,")
    assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(encoded)))), pixels)


def test_heat_is_clear_where_nothing_is_suspected() -> None:
    layer = heat(np.array([[0.0, 0.04, 0.5, 1.0]], np.float32))
    assert layer[0, :, 3].tolist() == [0, 0, 95, 190]


def test_the_outline_stays_thin() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    layer = edge(mask)
    assert layer.shape == (24, 24, 4) and layer[6, 6, 3] == 255 and layer[12, 12, 3] == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.123"), (512.4, "512"), (True, "yes"), (False, "no"), (None, "–"), (0.0, "0")],
)
def test_numbers_as_people_read_them(value: float | bool | None, text: str) -> None:
    assert format_figure(value) == text
