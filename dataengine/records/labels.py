"""Records of labels and of their reviews."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from dataengine.records.identity import now


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """A curator's verdict on a label revision."""

    image_id: str
    author: str
    revision: int
    reviewer: str
    verdict: Literal["accepted", "rejected", "corrected"]
    note: str = ""
    created: float = field(default_factory=now)


LabelSource = Literal["person", "simulated", "import", "injected"]

DEFAULT_CLASSES = ("shape distortion", "unreasonable content", "watermark")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelClass:
    """A class of artifacts; label maps hold its `value`, which never changes."""

    value: int
    name: str
    color: str = ""
    """"#rrggbb"; empty for the palette's colour of that value."""
    place: int = 0
    """Its place in lists, from 1."""
    retired: bool = False
    """No longer offered; labels that use it stay."""


class Region(NamedTuple):
    """What is said of one region of a label: why it is broken, and how much that matters (SDG)."""

    value: int
    """The class of its pixels in the label map."""
    box: tuple[int, int, int, int]
    """(left, top, right, bottom) in pixels, right and bottom excluded. It tells which region is meant: the
    marked pixels of this class in it, of which there is one at least."""
    reason: str = ""
    importance: int | None = None
    """1 (hardly matters) to 100 (ruins the image); None where nobody said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A person's label of one image: a label map (blob of `masks.pack_label_map`) or "clean".

    `revision` numbers the author's labels of the image from 1; the highest one is current.
    """

    image_id: str
    author: str
    height: int
    width: int
    label_map: str | None = None
    clean: bool = False
    revision: int = 1
    source: LabelSource = "person"
    lead_seconds: float = 0.0
    round_id: str | None = None
    detector_id: str | None = None
    note: str = ""
    regions: tuple[Region, ...] = ()
    """Reasons and importance of regions that have any."""
    created: float = field(default_factory=now)


AND = " + "
"""Separator of the authors of a merged label; no account name contains it."""
ERASED = "erased-"
"""What the pseudonym of an erased person begins with; eight hexadecimal digits follow."""
