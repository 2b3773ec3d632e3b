"""Structured defects of an image: where (a box), what (a type), why (a reason), and the importance of it.

SDG (Zhang et al. 2026, "Where, What, Why, and Importance", arXiv:2606.06113) describes each defect by these
four. A box's coordinates are pixels, shares of the image, or thousandths of it, x or y first; which one is
stated by whoever reads a box, since no box shows it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from dataengine.coordinates import COORDINATES, Coordinates
from dataengine.errors import InputRefused
from dataengine.masks import Confidence, LabelMap
from dataengine.records import Region

MAX_REASON = 1000
"""Characters of a reason."""
MAX_DEFECTS = 200
"""Of one image."""
HIGHEST = 100
"""The highest importance; 1 is the lowest."""
CORNERS = ("x1", "y1", "x2", "y2")
BOX_KEYS = ("bbox", "box_2d", "box")
TYPE_KEYS = ("type", "label")
REASON_KEYS = ("reason", "description", "desc")
LIST_KEYS = ("defects", "boxes")
"""Names that a box, its type, its reason, and the list of an image's defects go by."""


class Defect(NamedTuple):
    """One defect within an image."""

    box: tuple[int, int, int, int]
    """(left, top, right, bottom) in pixels, right and bottom excluded; inside the image, not empty."""
    type: str
    reason: str = ""
    importance: int | None = None
    """1 to `HIGHEST`."""
    clipped: bool = False
    """Whether its box reached past the image."""


def read_defect(payload: Any, coordinates: Coordinates, height: int, width: int) -> Defect:
    """The defect that an object with a box, a type and perhaps a reason and an importance describes.

    Raises `InputRefused` for a missing box or type, for corners in the wrong order, a box that lies off the
    image, an importance outside 1 to 100, and a reason that is too long.
    """
    if not isinstance(payload, Mapping):
        raise InputRefused("a defect is an object with bbox, type, reason and importance")
    kind = _first(payload, TYPE_KEYS)
    if not isinstance(kind, str) or not kind.strip():
        raise InputRefused("it has no type, the word for what is broken")
    box, clipped = _box(_first(payload, BOX_KEYS), coordinates, height, width)
    reason = _first(payload, REASON_KEYS)
    if reason is not None and not isinstance(reason, str):
        raise InputRefused("its reason is no text")
    return Defect(
        box=box,
        type=" ".join(kind.split()),
        reason=checked_reason(reason or ""),
        importance=checked_importance(payload.get("importance")),
        clipped=clipped,
    )


def checked_reason(reason: str) -> str:
    """The reason on one line. Raises `InputRefused` above `MAX_REASON` characters."""
    reason = " ".join(reason.replace("\0", " ").split())
    if len(reason) > MAX_REASON:
        raise InputRefused(f"its reason has {len(reason)} characters, of which at most {MAX_REASON} are kept")
    return reason


def checked_importance(value: Any) -> int | None:
    """An importance from 1 to 100, None where there is none. Raises `InputRefused` for anything else."""
    if value is None:
        return None
    number = _number(value)
    if number is None or not 1 <= number <= HIGHEST:
        raise InputRefused(f"its importance is {value!r:.40}, but must be a number from 1 to {HIGHEST}")
    return round(number)


def _first(payload: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((payload[key] for key in keys if payload.get(key) is not None), None)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _box(
    value: Any, coordinates: Coordinates, height: int, width: int
) -> tuple[tuple[int, int, int, int], bool]:
    """The box in whole pixels within the image, and whether it reached past it."""
    named = isinstance(value, Mapping)
    numbers = [value.get(key) for key in CORNERS] if named else value
    if not isinstance(numbers, list | tuple) or len(numbers) != 4:
        raise InputRefused("it has no box: four numbers, the corners top left and bottom right")
    corners = [_number(one) for one in numbers]
    if None in corners:
        raise InputRefused(f"its box {list(numbers)!r:.80} holds something else than four numbers")
    first, second, third, fourth = (float(one) for one in corners if one is not None)
    if coordinates.rows_first and not named:
        first, second, third, fourth = second, first, fourth, third
    if third <= first or fourth <= second:
        raise InputRefused(
            f"its box {list(numbers)!r:.80} is empty or names its corners in another order; they are top "
            "left, then bottom right"
        )
    scale = coordinates.scale
    across, down = (1.0, 1.0) if scale is None else (width / scale, height / scale)
    left, right = first * across, third * across
    top, bottom = second * down, fourth * down
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise InputRefused(
            f"its box {list(numbers)!r:.80} lies off the image of {width}×{height} pixels; are its "
            "coordinates what was stated?"
        )
    x1, x2 = _whole(left, right, width)
    y1, y2 = _whole(top, bottom, height)
    return (x1, y1, x2, y2), left < 0 or top < 0 or right > width or bottom > height


def _whole(low: float, high: float, side: int) -> tuple[int, int]:
    """An interval that overlaps [0, side) in whole pixels, one at least."""
    start = min(max(0, round(low)), side - 1)
    return start, max(start + 1, min(side, round(high)))


def importance_map(defects: Iterable[Defect], height: int, width: int) -> Confidence:
    """importance / 100 in each box, float32 HW in [0, 1]; where boxes overlap, the highest counts.

    This is the artifact map of a detector that answers boxes (SDG, Sec. 5). A defect without an importance
    counts fully.
    """
    found = np.zeros((height, width), dtype=np.float32)
    for defect in defects:
        x1, y1, x2, y2 = defect.box
        share = np.float32((HIGHEST if defect.importance is None else defect.importance) / HIGHEST)
        np.maximum(found[y1:y2, x1:x2], share, out=found[y1:y2, x1:x2])
    return found


def marked_regions(regions: Iterable[Region], label_map: LabelMap) -> tuple[Region, ...]:
    """The regions that mark anything: those whose box holds a pixel of their class in the map, uint8 HW."""
    return tuple(
        region
        for region in regions
        if (label_map[region.box[1] : region.box[3], region.box[0] : region.box[2]] == region.value).any()
    )


def region_of(payload: Any, height: int, width: int) -> Region:
    """A region as our own files write it: `value`, `box` in pixels, `reason`, `importance`.

    Raises `InputRefused` as `read_defect`.
    """
    if not isinstance(payload, Mapping):
        raise InputRefused("a region is an object with value, box, reason and importance")
    value = payload.get("value")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputRefused(f"the class of a region is {value!r:.40}, but must be a number from 1")
    defect = read_defect({**payload, "type": str(value)}, COORDINATES["pixels"], height, width)
    return Region(value, defect.box, defect.reason, defect.importance)


def region_payload(region: Region) -> dict[str, Any]:
    """A region as our own files write it, for `region_of`."""
    return {**region._asdict(), "box": list(region.box)}


def regions_of(
    payloads: Any, height: int, width: int, values: Mapping[int, int] | None = None
) -> tuple[list[Region], list[str]]:
    """The regions of a list of `region_payload`, and what is wrong with the others; `values` translates
    classes of another workspace."""
    if not isinstance(payloads, list):
        return [], ["its regions are no list"] if payloads else []
    found, wrong = [], []
    for payload in payloads[:MAX_DEFECTS]:
        try:
            region = region_of(payload, height, width)
            if values is not None and region.value not in values:
                raise InputRefused(f"the class {region.value} of a region is unknown here")
        except InputRefused as error:
            wrong.append(f"a region: {error}")
        else:
            found.append(region if values is None else region._replace(value=values[region.value]))
    return found, wrong


def json_values(text: str) -> Iterator[Any]:
    """The JSON lists and objects in a text, outermost ones only, in their order."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        starts = [place for place in (text.find("[", at), text.find("{", at)) if place >= 0]
        if not starts:
            return
        start = min(starts)
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
        else:
            yield value
