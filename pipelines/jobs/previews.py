"""Sample images shown while a detector trains or a generator is treated."""

from collections.abc import Mapping, Sequence

import numpy as np

from dataengine.masks import dequantise
from dataengine.records import Image, SnapshotItem
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context
from storage.workspace import Workspace

SAMPLES, FROZEN = "samples.json", "snapshot.json"
PICTURES = ("before", "after", "map")
"""Prefixes of the keys whose values in a sample are blobs or maps."""
KEPT_PREVIEWS = 4


def predict_maps(context: Context, detector_id: str, images: Sequence[Image], batch: int) -> list[np.ndarray]:
    """The detector's maps of these images, float32 HW; missing ones are predicted and stored."""
    predictions = predict(context, detector_id, images, batch)
    return [dequantise(context.workspace.maps.get(each.map_ref or "")) for each in predictions]


def save_samples(
    workspace: Workspace, run: str, step: int, samples: Sequence[Mapping[str, str | None]]
) -> None:
    """Store the samples that a run shows now. Those of the last few steps stay available to open pages."""
    before = workspace.job_files.get(run, SAMPLES) or {}
    refs = [value for one in samples for name, value in one.items() if name.startswith(PICTURES)]
    recent = [refs, *before.get("recent", [])][:KEPT_PREVIEWS]
    workspace.job_files.put(run, SAMPLES, {"step": step, "samples": list(samples), "recent": recent})


def spread_evenly(items: Sequence[SnapshotItem], count: int) -> list[SnapshotItem]:
    """At most `count` of the items, evenly spaced, in their order."""
    step = max(1, -(-len(items) // count))
    return list(items[::step])
