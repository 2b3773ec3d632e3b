"""Records of injected artifacts: the kinds of operations on pixels that make them."""

from typing import Literal

InjectionKind = Literal["warp", "double", "fuse", "tear", "glyphs", "watermark", "seam", "smooth"]

INJECTION_KINDS: tuple[InjectionKind, ...] = (
    "warp",
    "double",
    "fuse",
    "tear",
    "glyphs",
    "watermark",
    "seam",
    "smooth",
)

NO_START = (
    "Operations on pixels are a test bed for pre-training and perhaps an augmentation, not a start: a "
    "detector trained on them alone found none of the flaws in 42 generated images."
)
"""What commands and desks say with operations on pixels."""
