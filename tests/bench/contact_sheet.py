"""Contact sheets: images side by side, with marked regions below them if given."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

GAP = 2


def contact_sheet(
    images: Sequence[np.ndarray] | np.ndarray,
    marks: Sequence[np.ndarray] | np.ndarray | None = None,
    columns: int = 12,
    scale: int = 2,
) -> Image.Image:
    """uint8 HWC images in rows; `marks` (HW, confidence in [0, 1] or label map) are shown in red in a row
    below each.
    """
    height, width = images[0].shape[0] * scale, images[0].shape[1] * scale
    bands = 1 if marks is None else 2
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP), rows * bands * (height + GAP)))
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        versions = [image] if marks is None else [image, highlight(image, marks[i])]
        for band, version in enumerate(versions):
            tile = Image.fromarray(version).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (column * (width + GAP), (row * bands + band) * (height + GAP)))
    return sheet


def highlight(image: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """The image, dimmed, with the mark in red."""
    strength = np.clip(mark.astype(np.float32), 0, 1)[..., None]
    dimmed = np.where(strength > 0.02, image, image * 0.75)
    return (dimmed * (1 - 0.65 * strength) + np.array([255, 0, 0]) * 0.65 * strength).astype(np.uint8)
