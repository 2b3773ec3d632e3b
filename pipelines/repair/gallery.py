"""The before/after gallery of a repair as one self-contained HTML page.

Input: tiles of images before and after. Output: HTML text from `gallery.html`, with every value escaped and
every image embedded. It follows the reader's light or dark colour scheme.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, Template
from PIL import Image

from pipelines.repair.outcomes import ImageOutcome

TEMPLATE = Path(__file__).with_name("gallery.html")
MOST = 200
"""Images on a page; the report lists all."""
SIDE = 640
"""Longest side of an image on the page, in pixels, and of a region."""
REGION_SIDE = 240
REGIONS = 4
"""Most regions of one image that are shown enlarged."""
QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A repaired image before and after, as data URIs, and its repaired regions enlarged."""

    outcome: ImageOutcome
    before: str
    after: str
    regions: tuple[tuple[str, str], ...]


def choose_shown(outcomes: Sequence[ImageOutcome]) -> list[ImageOutcome]:
    """The repaired images, the largest gain first."""
    repaired = [each for each in outcomes if each.state == "repaired"]
    return sorted(repaired, key=lambda each: (-each.gain, each.file))[:MOST]


def make_tile(outcome: ImageOutcome, before: np.ndarray, after: np.ndarray) -> Tile:
    """A tile of two images uint8 HW3 of one size."""
    taken = [each.crop for each in outcome.regions if each.draw is not None][:REGIONS]
    return Tile(
        outcome=outcome,
        before=embed(before, SIDE),
        after=embed(after, SIDE),
        regions=tuple((_region(before, crop), _region(after, crop)) for crop in taken),
    )


def _region(pixels: np.ndarray, crop: tuple[int, int, int, int]) -> str:
    top, left, bottom, right = crop
    return embed(pixels[top:bottom, left:right], REGION_SIDE)


def embed(pixels: np.ndarray, side: int) -> str:
    """A uint8 HW3 image, at most `side` pixels long, as a data URI; small ones without loss."""
    image = Image.fromarray(pixels)
    lossless = max(image.size) <= side // 4
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    body = io.BytesIO()
    image.save(body, "PNG" if lossless else "JPEG", quality=QUALITY)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(body.getvalue()).decode()}"


def render_gallery(
    tiles: Sequence[Tile], outcomes: Sequence[ImageOutcome], counts: dict[str, int], notes: Sequence[str]
) -> str:
    """The page: figures, notes, the tiles in their order, and what stayed as it was, with the reasons."""
    others: list[Any] = [each for each in outcomes if each.state != "repaired"]
    return template().render(
        tiles=tiles, counts=counts, notes=notes, others=others[:MOST], left=max(0, len(others) - MOST)
    )


@cache
def template() -> Template:
    """The page's template, which escapes every value."""
    environment = Environment(autoescape=True)
    environment.filters["confidence"] = lambda value: f"{value:.2f}"
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
