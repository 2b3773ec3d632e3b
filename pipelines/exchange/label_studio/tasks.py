"""Label Studio's JSON: tasks with brush annotations and predictions, both ways.

A task carries our image id as `data["clinic_id"]`; nothing of a task is ever fetched by URL. An annotation
without regions says that nothing is broken; a skipped one says nothing.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import InputRefused, MaskRefused
from dataengine.masks import PALETTE, LabelMap, by_class
from dataengine.records import DetectorVersion, Image, digest
from pipelines.exchange.label_studio.brush_rle import ALPHA_THRESHOLD, decode_mask, encode_mask

FROM_NAME, TO_NAME = "artifact", "image"
SHOWN = ("prompt", "category")
"""Of 255: the part of an artifact map that becomes a brush prediction."""

NumberOf = Callable[[str], int]


def label_config(classes: Sequence[str]) -> str:
    """The labelling interface: the prompt, the picture, one brush for each class."""
    labels = "".join(
        f"<Label value={quoteattr(name)} background={quoteattr(_colour(number))}/>"
        for number, name in enumerate(classes)
    )
    return (
        f'<View><Header value="$prompt" size="5"/>'
        f'<Image name="{TO_NAME}" value="$image" zoom="true" zoomControl="true"/>'
        f'<BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">{labels}</BrushLabels></View>'
    )


def _colour(number: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*PALETTE[number % len(PALETTE)])


def task_data(image: Image, url: str, **more: str | float | None) -> dict[str, Any]:
    """What a task says of an image; `url` is where Label Studio finds the pixels."""
    shown = {name: getattr(image, name) or "" for name in SHOWN}
    return {"image": url, "clinic_id": image.id, **shown, **more}


def brush_results(label_map: LabelMap, classes: Sequence[str], key: str = "") -> list[dict[str, Any]]:
    """One brush region for each class of a label map; the same map always gives the same."""
    return [
        _region(mask, classes[number - 1], digest(key, number, length=10))
        for number, mask in by_class(label_map).items()
    ]


def _region(mask: NDArray[Any], label: str, key: str) -> dict[str, Any]:
    height, width = mask.shape
    return {
        "id": key,
        "type": "brushlabels",
        "from_name": FROM_NAME,
        "to_name": TO_NAME,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": list(encode_mask(mask)), "brushlabels": [label]},
    }


def brush_prediction(
    artifact_map: NDArray[np.uint8],
    size: tuple[int, int],
    score: float,
    model_version: str,
    classes: Sequence[str],
    threshold: float,
) -> dict[str, Any]:
    """A brush prediction of (height, width) pixels, where an 8-bit artifact map reaches the threshold."""
    rows = np.arange(size[0]) * artifact_map.shape[0] // size[0]
    columns = np.arange(size[1]) * artifact_map.shape[1] // size[1]
    broken = (artifact_map >= 255 * threshold)[np.ix_(rows, columns)]
    regions = [_region(broken, classes[0], digest(model_version, length=10))] if broken.any() else []
    return {"result": regions, "score": round(float(score), 6), "model_version": model_version}


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One annotation as Label Studio tells it."""

    id: str
    author: str
    results: list[Any]
    lead_seconds: float
    updated: float
    updated_at: str


def read_annotation(said: Any, author_of: Callable[[Any], str]) -> Annotation | None:
    """An annotation; None for one that was skipped. Raises `InputRefused` if it is none."""
    if not isinstance(said, dict) or not isinstance(said.get("result"), list):
        raise InputRefused("an annotation needs a list of results")
    if said.get("was_cancelled"):
        return None
    stamp = said.get("updated_at") or said.get("created_at") or ""
    try:
        updated = datetime.fromisoformat(str(stamp)).timestamp() if stamp else 0.0
        lead = float(said.get("lead_time") or 0.0)
    except (TypeError, ValueError):
        raise InputRefused(f"an annotation's updated_at {stamp!r} or lead_time is unreadable") from None
    return Annotation(
        id=str(said.get("id", "")),
        author=author_of(said.get("completed_by")),
        results=said["result"],
        lead_seconds=max(0.0, lead),
        updated=updated,
        updated_at=str(stamp),
    )


def label_map_of(results: Sequence[Any], height: int, width: int, number_of: NumberOf) -> LabelMap | None:
    """The label map of brush regions, later ones over earlier; None where there are none.

    Raises `MaskRefused` for regions that are no brush, of another size, or of a class that is none of ours.
    """
    drawn = np.zeros((height, width), dtype=np.uint8)
    found = False
    for one in results:
        value = one.get("value") if isinstance(one, dict) else None
        if not isinstance(value, dict):
            raise MaskRefused("a region has no value")
        if one.get("type") != "brushlabels" or value.get("format") != "rle":
            raise MaskRefused(f"a region is of type {one.get('type')!r}; only brush strokes become labels")
        size = one.get("original_height"), one.get("original_width")
        if size != (height, width) or one.get("image_rotation"):
            raise MaskRefused(f"a region was drawn on {size} (height, width), its picture is {height, width}")
        names = value.get("brushlabels")
        if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
            raise MaskRefused("a region needs exactly one label")
        code = value.get("rle")
        if not isinstance(code, list):
            raise MaskRefused("a region has no rle")
        drawn[decode_mask(code, height, width)] = number_of(names[0])
        found = True
    return drawn if found and drawn.any() else None


def author_of(said: Any) -> str:
    """Who drew it: the e-mail address where it is told, else the number."""
    if isinstance(said, dict):
        said = said.get("email") or said.get("id")
    return f"label-studio:{said if said is not None else 'unknown'}"[:200]


def note_of(annotation: Annotation, task: Any, **place: Any) -> str:
    """Where a label came from, as its note keeps it."""
    about = {"annotation": annotation.id, "task": task, "updated_at": annotation.updated_at, **place}
    return json.dumps({"label_studio": about | {"alpha_threshold": ALPHA_THRESHOLD}}, sort_keys=True)


def model_version(champion: DetectorVersion | None) -> str:
    """What Label Studio calls a detector's answers; its id makes it unique."""
    return f"{champion.name} ({champion.id})"[:200] if champion else ""
