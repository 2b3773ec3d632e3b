"""The kinds of operations on pixels that inject artifacts. Importing this module is cheap."""

from typing import Literal

Kind = Literal["warp", "double", "fuse", "tear", "glyphs", "watermark", "seam", "smooth"]

KINDS: tuple[Kind, ...] = ("warp", "double", "fuse", "tear", "glyphs", "watermark", "seam", "smooth")

NO_START = (
    "Operations on pixels are a test bed for pre-training and perhaps an augmentation, not a start: a "
    "detector trained on them alone found none of the flaws in 42 generated images."
)
"""What commands and desks say with operations on pixels."""
