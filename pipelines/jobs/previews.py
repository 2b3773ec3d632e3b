"""Images shown while a detector trains."""

from collections.abc import Mapping, Sequence

import numpy as np

from dataengine.masks import dequantise
from dataengine.records import Image, SnapshotItem
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context
from storage.workspace import Workspace

SAMPLES, FROZEN = "samples.json", "snapshot.json"
PICTURES = ("before", "after", "map")
"""What names of blobs and maps among the samples begin with."""
KEPT_PREVIEWS = 4


def predict_maps(context: Context, detector_id: str, images: Sequence[Image], batch: int) -> list[np.ndarray]:
    """The detector's maps of these images, float32 HW; what is missing is made and kept."""
    found = predict(context, detector_id, images, batch)
    return [dequantise(context.workspace.maps.get(one.map_ref or "")) for one in found]


def save_samples(
    workspace: Workspace, run: str, step: int, samples: Sequence[Mapping[str, str | None]]
) -> None:
    """Keep what a run shows now. What it showed just before can still be asked for, by pages under way."""
    before = workspace.job_files.get(run, SAMPLES) or {}
    refs = [value for one in samples for name, value in one.items() if name.startswith(PICTURES)]
    recent = [refs, *before.get("recent", [])][:KEPT_PREVIEWS]
    workspace.job_files.put(run, SAMPLES, {"step": step, "samples": list(samples), "recent": recent})


def spread_evenly(items: Sequence[SnapshotItem], count: int) -> list[SnapshotItem]:
    """At most `count` of the items, spread evenly, in their order."""
    step = max(1, -(-len(items) // count))
    return list(items[::step])
