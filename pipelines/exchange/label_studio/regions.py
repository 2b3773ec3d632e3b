"""Label Studio's regions become a label map.

Results that share an id and a shape are one region: its shape comes from one (`brush`, `rectangle`, …), its
label from it or another (`labels`). Coordinates are per cent of the picture. Answers to other controls, such
as choices, and relations mark nothing and are left aside; a point or a line encloses nothing.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dataengine.errors import InputRefused, MaskRefused
from dataengine.images import decode_layers, stored_size
from dataengine.masks import LabelMap, Mask
from pipelines.exchange.import_options import ImportOptions
from pipelines.exchange.label_studio.brush_rle import ALPHA_THRESHOLD, decode_mask
from pipelines.exchange.shapes import fill_ellipse, fill_polygons, fill_rectangle

ANSWERS = frozenset(
    ("choices", "taxonomy", "textarea", "number", "rating", "datetime", "pairwise", "ranker", "relation",
     "chatmessage", "reactcode")
)  # fmt: skip
"""Types of results that mark nothing, even where they repeat the shape of the region that they belong to."""
SPANS = frozenset(["labels", "hypertextlabels", "paragraphlabels", "timeserieslabels", "timelinelabels"])
"""Types of results that mark text or sound, unless they have a shape."""
SHAPES = frozenset(["rle", "imageDataURL", "points", "radiusX", "height", "vertices", "sequence"])
"""Fields of which every region of a picture has one, unless it is a point."""
MAX_VERTICES = 100_000
MAX_NUMBER = 1e6
PNG_URL = "data:image/png;base64,"
READ = "brush strokes, magic wands, bitmasks, polygons, rectangles and ellipses"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """What an annotation draws: a label map, or None if it marks nothing."""

    label_map: LabelMap | None
    refused: tuple[str, ...] = ()
    """Why regions could not be used; without them it is no whole label, and never a clean one."""
    left_out: tuple[str, ...] = ()
    """Regions that enclose nothing; the label is whole without them."""


@dataclass(slots=True)
class _Region:
    result: dict[str, Any]
    labels: list[str]


def draw(results: Sequence[Any], height: int, width: int, options: ImportOptions) -> Drawing:
    """The label map of an annotation's regions, later ones over earlier ones.

    No result at all means that nothing is broken; results that mark nothing do not.
    """
    if not results:
        return Drawing(label_map=None)
    label_map = np.zeros((height, width), dtype=np.uint8)
    refused: list[str] = []
    left_out: list[str] = []
    for region in _regions(results, refused):
        name = f"region {region.result.get('id', 'without id')}"
        try:
            if _is_point(region.result["value"]):
                left_out.append(f"{name} is a point, which marks no area")
                continue
            mask = _mask(region.result, height, width)
            value = _class_value(region.labels, options)
        except InputRefused as error:
            refused.append(f"{name}: {error}")
            continue
        if not mask.any():
            left_out.append(f"{name} marks no pixel of its image")
        label_map[mask] = value
    if label_map.any():
        return Drawing(label_map=label_map, refused=tuple(refused), left_out=tuple(left_out))
    if not refused and not left_out:
        kinds = ", ".join(kinds_aside([results]))
        refused.append(f"it answers {kinds} and marks nothing, which does not say that nothing is broken")
    elif not refused:
        left_out.append("delete such regions if nothing is broken")
    return Drawing(label_map=None, refused=(*refused, *left_out))


def kinds_aside(annotations: Iterable[Sequence[Any]]) -> Counter[str]:
    """How many results of each kind mark nothing and are left aside."""
    return Counter(
        str(one["type"])
        for results in annotations
        for one in results
        if isinstance(one, dict) and _aside(one)
    )


def notes_aside(annotations: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    """A note for each kind of results that are left aside."""
    return tuple(
        f"results of type {kind} mark no area and are left aside ({count} of them)"
        for kind, count in sorted(kinds_aside(annotations).items())
    )


def objects_of(results: Sequence[Any]) -> set[str]:
    """The names of the objects on which something is marked."""
    return {
        str(one["to_name"])
        for one in results
        if isinstance(one, dict) and "to_name" in one and not _aside(one)
    }


def _aside(result: dict[str, Any]) -> bool:
    kind, value = str(result.get("type")), result.get("value")
    if kind in ANSWERS:
        return True
    return kind in SPANS and not (isinstance(value, dict) and ("x" in value or not SHAPES.isdisjoint(value)))


def _is_point(value: dict[str, Any]) -> bool:
    return "x" in value and "y" in value and SHAPES.isdisjoint(value)


def _regions(results: Sequence[Any], refused: list[str]) -> list[_Region]:
    found: dict[Any, list[_Region]] = {}
    order: list[_Region] = []
    for position, one in enumerate(results):
        value = one.get("value") if isinstance(one, dict) else None
        if not isinstance(one, dict) or not (_aside(one) or isinstance(value, dict)):
            refused.append("a region has no value")
            continue
        if _aside(one):
            continue
        assert isinstance(value, dict)
        labels = _labels(value)
        key = one["id"] if isinstance(one.get("id"), str) else position
        alike = next((each for each in found.get(key, []) if _shape(each.result) == _shape(one)), None)
        if alike is None:
            alike = _Region(result=one, labels=[])
            found.setdefault(key, []).append(alike)
            order.append(alike)
        alike.labels += labels
    return order


def _labels(value: dict[str, Any]) -> list[str]:
    given = [label for name, label in value.items() if name.endswith("labels") and isinstance(label, list)]
    return [str(label) for labels in given for label in labels]


def _shape(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result["value"].items() if not name.endswith("labels")}


def _class_value(labels: list[str], options: ImportOptions) -> int:
    if not labels:
        if options.one_class:
            return options.one_class_value
        raise MaskRefused("it has no label; --one-class NAME gives it one")
    values = {options.class_value(label) for label in labels}
    if len(values) > 1:
        raise MaskRefused(f"it has {len(values)} labels ({', '.join(labels)}), and a pixel can have one")
    return values.pop()


def _mask(result: dict[str, Any], height: int, width: int) -> Mask:
    """Bool `HW` of a region. Raises `MaskRefused` if it is of another picture or has no area that is read."""
    _check_picture(result, height, width)
    value = result["value"]
    if "rle" in value:
        if not isinstance(value["rle"], list):
            raise MaskRefused("its rle is not a list of numbers")
        return decode_mask(value["rle"], height, width)
    if "imageDataURL" in value:
        return _bitmask(value["imageDataURL"], height, width)
    if "points" in value:
        return _polygon(value, height, width)
    across, down = width / 100, height / 100
    if "radiusX" in value:
        x, y, a, b = _numbers(value, "x", "y", "radiusX", "radiusY")
        return fill_ellipse(x * across, y * down, a * across, b * down, _turn(value), height, width)
    if "width" in value and "height" in value:
        x, y, w, h = _numbers(value, "x", "y", "width", "height")
        return fill_rectangle(x * across, y * down, w * across, h * down, _turn(value), height, width)
    raise MaskRefused(f"its type {str(result.get('type'))!r:.40} is not read; {READ} are")


def _check_picture(result: dict[str, Any], height: int, width: int) -> None:
    # Exports of old versions state no size: a brush that does not fit is refused as it is decoded.
    size = result.get("original_height"), result.get("original_width")
    if size not in ((None, None), (height, width)):
        raise MaskRefused(f"it was drawn on {size!r:.60} (height, width), its image is {height, width}")
    if result.get("image_rotation"):
        raise MaskRefused(
            f"its image was turned by {result['image_rotation']!r:.10} degrees there; turn it back"
        )
    if result.get("item_index"):
        raise MaskRefused(f"it belongs to picture {result['item_index']!r:.10} of its task, counted from 0")


def _polygon(value: dict[str, Any], height: int, width: int) -> Mask:
    points = value["points"]
    if value.get("closed") is False:
        raise MaskRefused("its polygon is not closed")
    if not isinstance(points, list) or not all(
        isinstance(point, list | tuple) and len(point) == 2 and all(map(_is_number, point))
        for point in points
    ):
        raise MaskRefused("the points of a polygon are pairs [x, y] of numbers")
    if len(points) > MAX_VERTICES:
        raise MaskRefused(f"its polygon has more than {MAX_VERTICES} points")
    if len(points) < 3:
        return np.zeros((height, width), dtype=bool)
    corners = np.asarray(points, dtype=np.float64) * (width / 100, height / 100)
    return fill_polygons([corners.ravel().tolist()], height, width)


def _bitmask(url: Any, height: int, width: int) -> Mask:
    """A bitmask's picture: what is opaque is marked."""
    try:
        if not isinstance(url, str) or not url.startswith(PNG_URL):
            raise MaskRefused(f"it does not begin with {PNG_URL}")
        data = base64.b64decode(url[len(PNG_URL) :], validate=True)
        size = stored_size(data)
        if size != (height, width):
            raise MaskRefused(f"it is {size} (height, width), its image is {height, width}")
        layers = decode_layers(data)
    except (InputRefused, binascii.Error) as error:
        raise MaskRefused(f"its bitmask cannot be read: {error}") from None
    if layers.alpha is None:
        raise MaskRefused("its bitmask is opaque everywhere, so nothing tells the marked pixels from others")
    return layers.alpha >= ALPHA_THRESHOLD


def _turn(value: dict[str, Any]) -> float:
    return _numbers(value, "rotation")[0] if value.get("rotation") is not None else 0.0


def _numbers(value: dict[str, Any], *names: str) -> list[float]:
    found = [value.get(name) for name in names]
    if not all(map(_is_number, found)):
        raise MaskRefused(f"its shape needs the numbers {', '.join(names)}")
    return [float(one) for one in found if one is not None]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
