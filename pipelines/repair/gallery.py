"""The before/after gallery of a repair as one self-contained HTML page.

Input: tiles of images before and after. Output: HTML text from `gallery.html`, with every value escaped and
every image embedded. It follows the reader's light or dark colour scheme.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.repair.outcomes import ImageOutcome
from pipelines.reports.gallery import MOST, SIDE, embed, render_page

TEMPLATE = Path(__file__).with_name("gallery.html")
REGION_SIDE = 240
"""Longest side of a region on the page, in pixels."""
REGIONS = 4
"""Most regions of one image that are shown enlarged."""


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


def render_gallery(
    tiles: Sequence[Tile], outcomes: Sequence[ImageOutcome], counts: dict[str, int], notes: Sequence[str]
) -> str:
    """The page: figures, notes, the tiles in their order, and what stayed as it was, with the reasons."""
    others: list[Any] = [each for each in outcomes if each.state != "repaired"]
    return render_page(
        TEMPLATE,
        tiles=tiles,
        counts=counts,
        notes=notes,
        others=others[:MOST],
        left=max(0, len(others) - MOST),
    )
