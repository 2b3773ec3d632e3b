"""Contact sheets: images side by side with their maps and masks, in a single image file.

Input: uint8 HWC images, float32 HW confidence in [0, 1], bool HW masks. Output: PIL images. Cost:
milliseconds per tile.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataengine.masks import PALETTE, overlay_confidence

PAPER, INK, FAINT = (250, 249, 246), (32, 34, 40), (120, 124, 134)
OUTLINE = (255, 196, 0)
GAP, HEAD, FOOT = 10, 76, 26


@dataclass(frozen=True, kw_only=True)
class Tile:
    """An image, its overlays, and a caption below it. `marked` frames it in red as broken."""

    image: np.ndarray
    confidence: np.ndarray | None = None
    mask: np.ndarray | None = None
    text: str = ""
    marked: bool = False


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Rows of tiles with shared column headings; `repeat` rows are placed side by side on a sheet."""

    name: str
    title: str
    lead: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Tile, ...], ...]
    repeat: int = 1


def outline(mask: np.ndarray, width: int = 1) -> np.ndarray:
    """The border of a bool mask, inside it, `width` pixels thick: bool HW."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def render_tile(tile: Tile, side: int) -> Image.Image:
    """A tile's image, its longer edge `side` pixels: its map as red heat, its mask as a yellow outline."""
    height, width = tile.image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = tile.image if tile.confidence is None else overlay_confidence(tile.image, tile.confidence)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if tile.mask is not None:
        large = np.asarray(Image.fromarray(tile.mask.astype(np.uint8) * 255).resize(size)) > 127
        outlined = np.array(image)
        outlined[outline(large, width=max(2, side // 64))] = OUTLINE
        image = Image.fromarray(outlined)
    if tile.marked:
        ImageDraw.Draw(image).rectangle(
            (0, 0, size[0] - 1, size[1] - 1), outline=PALETTE[0], width=max(2, side // 48)
        )
    return image


def render_strip(images: Sequence[np.ndarray], side: int = 128) -> Image.Image:
    """The images in one row, each `side` pixels high; the gaps are transparent."""
    scaled = [
        Image.fromarray(one).resize((max(1, round(one.shape[1] * side / one.shape[0])), side))
        for one in images
    ]
    strip = Image.new("RGBA", (sum(one.width + GAP for one in scaled) - GAP, side))
    left = 0
    for one in scaled:
        strip.paste(one, (left, 0))
        left += one.width + GAP
    return strip


def render_sheet(gallery: Gallery, side: int = 128) -> Image.Image:
    """The gallery as one image, `side` pixels per tile."""
    heading, line = ImageFont.load_default(20), ImageFont.load_default(12)
    rows = [gallery.rows[i : i + gallery.repeat] for i in range(0, len(gallery.rows), gallery.repeat)]
    block = len(gallery.columns) * (side + GAP) + GAP
    width = max(block * min(gallery.repeat, max(len(gallery.rows), 1)), 560)
    paper = Image.new("RGB", (width, HEAD + len(rows) * (side + FOOT) + GAP), PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((GAP, 8), gallery.title, fill=INK, font=heading)
    pen.text((GAP, 34), truncate_text(gallery.lead, width - 2 * GAP, line), fill=FAINT, font=line)
    for down, row in enumerate(rows):
        for across, tiles in enumerate(row):
            left = GAP + across * block
            _row(paper, pen, gallery.columns, tiles, left, HEAD + down * (side + FOOT), side, heads=down == 0)
    return paper


def _row(
    paper: Image.Image,
    pen: ImageDraw.ImageDraw,
    columns: Sequence[str],
    tiles: Sequence[Tile],
    left: int,
    top: int,
    side: int,
    heads: bool,
) -> None:
    font = ImageFont.load_default(12)
    for head, tile in zip(columns, tiles, strict=True):
        if heads:
            pen.text((left, top - 18), truncate_text(head, side, font), fill=FAINT, font=font)
        paper.paste(render_tile(tile, side), (left, top))
        pen.text((left, top + side + 3), truncate_text(tile.text, side, font), fill=INK, font=font)
        left += side + GAP


def truncate_text(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text on one line, truncated with an ellipsis if it is wider than `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
