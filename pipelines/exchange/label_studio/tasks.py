"""Label Studio's JSON: reading and writing tasks with brush annotations and predictions.

A task has our image id as `data["clinic_id"]`; URLs in a task are never fetched. An annotation without
regions means that nothing is broken; a skipped annotation is ignored.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import InputRefused
from dataengine.masks import LabelMap, by_class, palette_color
from dataengine.records import DetectorVersion, Image, LabelClass, digest
from pipelines.exchange.label_studio.brush_rle import ALPHA_THRESHOLD, encode_mask

FROM_NAME, TO_NAME = "artifact", "image"
SHOWN = ("prompt", "category")
"""Image fields that a task shows."""
AUTHOR = "author"
"""The field of an annotation in which our export names its author. Label Studio leaves it aside; its own
`completed_by` must name somebody whom the server knows."""
UNKNOWN = "label-studio:unknown"
"""The author of annotations that name none."""


def label_config(classes: Sequence[LabelClass]) -> str:
    """The labelling interface: the prompt, the image, one brush for each class."""
    labels = "".join(
        f"<Label value={quoteattr(one.name)} background={quoteattr(one.color or palette_color(one.value))}/>"
        for one in classes
    )
    return (
        f'<View><Header value="$prompt" size="5"/>'
        f'<Image name="{TO_NAME}" value="$image" zoom="true" zoomControl="true"/>'
        f'<BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">{labels}</BrushLabels></View>'
    )


def task_data(image: Image, url: str, **more: str | float | None) -> dict[str, Any]:
    """A task's data for an image; `url` is where Label Studio loads the pixels from."""
    shown = {name: getattr(image, name) or "" for name in SHOWN}
    return {"image": url, "clinic_id": image.id, **shown, **more}


def brush_results(label_map: LabelMap, classes: Sequence[str], key: str = "") -> list[dict[str, Any]]:
    """One brush region for each class of a label map; deterministic."""
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
    label: str,
    threshold: float,
) -> dict[str, Any]:
    """A brush prediction of `size` (height, width) with that label, where an 8-bit artifact map reaches the
    threshold."""
    rows = np.arange(size[0]) * artifact_map.shape[0] // size[0]
    columns = np.arange(size[1]) * artifact_map.shape[1] // size[1]
    broken = (artifact_map >= 255 * threshold)[np.ix_(rows, columns)]
    regions = [_region(broken, label, digest(model_version, length=10))] if broken.any() else []
    return {"result": regions, "score": round(float(score), 6), "model_version": model_version}


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotation:
    """One annotation of Label Studio."""

    id: str
    author: str
    results: list[Any]
    lead_seconds: float
    updated: float
    updated_at: str
    ours: bool = False
    """Whether our export wrote it, which names the author as we do."""


def read_annotation(payload: Any, author_of: Callable[[Any], str]) -> Annotation | None:
    """Read an annotation; None if it was skipped. Raises `InputRefused` if it is malformed."""
    if not isinstance(payload, dict) or not isinstance(payload.get("result"), list):
        raise InputRefused("an annotation needs a list of results")
    if payload.get("was_cancelled") or payload.get("skipped"):
        return None
    stamp = payload.get("updated_at") or payload.get("created_at") or ""
    try:
        # Old versions write seconds.
        seconds = stamp if isinstance(stamp, int | float) else 0.0
        updated = datetime.fromisoformat(stamp).timestamp() if isinstance(stamp, str) and stamp else seconds
        lead = float(payload.get("lead_time") or 0.0)
    except (TypeError, ValueError, OverflowError):
        raise InputRefused(f"an annotation's updated_at {stamp!r:.40} or lead_time is unreadable") from None
    ours = payload.get(AUTHOR)
    return Annotation(
        id=str(payload.get("id", "")),
        author=ours[:200] if isinstance(ours, str) and ours else author_of(payload.get("completed_by")),
        ours=isinstance(ours, str) and bool(ours),
        results=payload["result"],
        lead_seconds=max(0.0, lead),
        updated=updated,
        updated_at=str(stamp),
    )


def author_of(user: Any) -> str:
    """The annotator: the e-mail address if it is given, else the number."""
    if isinstance(user, dict):
        user = user.get("email") or user.get("id")
    return UNKNOWN if user is None else f"label-studio:{user}"[:200]


def note_of(annotation: Annotation, task: Any, **place: Any) -> str:
    """The note of a label: the annotation that it came from."""
    about = {"annotation": annotation.id, "task": task, "updated_at": annotation.updated_at, **place}
    return json.dumps({"label_studio": about | {"alpha_threshold": ALPHA_THRESHOLD}}, sort_keys=True)


def model_version(champion: DetectorVersion | None) -> str:
    """The model version of a detector's predictions in Label Studio; unique, since it contains the id."""
    return f"{champion.name} ({champion.id})"[:200] if champion else ""
