"""Contact sheets: sizes, outlines, marks and texts that fit."""

import numpy as np
import pytest
from PIL import ImageFont

from dataengine.masks import PALETTE
from pipelines.reports.contact_sheet import (
    OUTLINE,
    Gallery,
    Tile,
    outline,
    render_sheet,
    render_tile,
    truncate_text,
)


def square() -> np.ndarray:
    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    return mask


def test_the_outline_is_the_mask_without_its_inside() -> None:
    border = outline(square())
    assert border.sum() == 8 * 8 - 6 * 6
    assert not border[5:11, 5:11].any() and border[4, 4] and not border[3, 3]


def test_a_tile_shows_map_mask_and_mark() -> None:
    grey = np.full((16, 16, 3), 128, np.uint8)
    hot = np.zeros((16, 16), np.float32)
    hot[:8] = 1.0
    plain, heated = (
        np.array(render_tile(Tile(image=grey), 64)),
        np.array(render_tile(Tile(image=grey, confidence=hot), 64)),
    )
    assert np.array_equal(plain[48:], heated[48:]) and heated[8, 8, 0] > 180 > heated[8, 8, 1]
    outlined = np.array(render_tile(Tile(image=grey, mask=square()), 64))
    assert tuple(outlined[17, 32]) == OUTLINE and tuple(outlined[32, 32]) == (128, 128, 128)
    assert tuple(np.array(render_tile(Tile(image=grey, marked=True), 64))[0, 0]) == PALETTE[0]


def test_a_wide_picture_keeps_its_shape() -> None:
    assert render_tile(Tile(image=np.zeros((20, 80, 3), np.uint8)), 128).size == (128, 32)


@pytest.mark.parametrize(("rows", "repeat"), [(1, 1), (5, 2), (7, 4)])
def test_every_row_finds_its_place(rows: int, repeat: int) -> None:
    white, black = (np.full((8, 8, 3), value, np.uint8) for value in (255, 0))
    gallery = Gallery(
        name="test",
        title="Title",
        lead="Lead",
        columns=("before", "after"),
        rows=tuple((Tile(image=white), Tile(image=black)) for _ in range(rows)),
        repeat=repeat,
    )
    paper = np.array(render_sheet(gallery, side=32))
    blacks = (paper == 0).all(-1).sum()
    assert blacks >= rows * 32 * 32 * 0.95
    assert paper.shape[0] >= -(-rows // repeat) * 32


def test_a_long_text_is_cut() -> None:
    font = ImageFont.load_default(12)
    assert truncate_text("short", 500, font) == "short"
    cut = truncate_text("a very long caption of many words", 60, font)
    assert cut.endswith("…") and font.getlength(cut) <= 60
