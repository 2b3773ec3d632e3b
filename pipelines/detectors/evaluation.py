"""Evaluate a detector on the validation and benchmark sets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from dataengine.masks import dequantise
from dataengine.records import DetectorVersion, SnapshotItem, Split, threshold_of
from pipelines.config import PublishConfig
from pipelines.detectors import score_dynamics, yes_no_question
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.score_dynamics import redrawable_images
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_set import labelled_items, real_items
from pipelines.runtime.context import Context
from pipelines.runtime.open_detector import open_detector


def measure_redrawable(
    context: Context, version: DetectorVersion, sets: Mapping[str, Sequence[SnapshotItem]], batch: int
) -> dict[str, Any]:
    """The metrics of `measure_on_sets`, on those images of each set that can be regenerated."""
    from dataengine.diagnosis.image_metrics import image_metrics
    from dataengine.diagnosis.metrics import summarise
    from pipelines.detectors.predict import predict

    figures = {}
    for name, items in sets.items():
        with context.workspace.catalog(read_only=True) as catalog:
            known = catalog.images.get_many([item.image_id for item in items])
        redrawable = {image.id: image for image in redrawable_images(known)}
        chosen = [item for item in items if item.image_id in redrawable]
        if not chosen:
            continue
        samples = StoredSamples(context.workspace, chosen)
        predictions = predict(context, version.id, [redrawable[item.image_id] for item in chosen], batch)
        rows = []
        for index, prediction in enumerate(predictions):
            sample, confidence = samples.sample(index), context.workspace.maps.get(str(prediction.map_ref))
            rows.append(
                image_metrics(
                    sample.target,
                    dequantise(confidence),
                    sample.category or "",
                    threshold_of(version),
                    sample.label_map,
                )
            )
        figures[name] = asdict(summarise(rows))
    return figures


SPLITS: tuple[Split, ...] = ("validation", "benchmark")


def evaluation_sets(
    context: Context, weights: PublishConfig, round_id: str | None = None
) -> dict[str, list[SnapshotItem]]:
    """Rows to evaluate on: labelled images by split, real ones by split + "_real"; empty sets are omitted."""
    data = read_training_data(context.workspace, weights.labels, round_id, SPLITS)
    sets: dict[str, list[SnapshotItem]] = {}
    for split in SPLITS:
        sets[split] = labelled_items(context.workspace.blobs, data, split, weights)
        sets[f"{split}_real"] = real_items(data, split, weights)
    return {name: items for name, items in sets.items() if items}


def measure_on_sets(
    context: Context, detector_id: str, sets: dict[str, list[SnapshotItem]], batch: int
) -> dict[str, Any]:
    """One detector's metrics on each set."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    if score_dynamics.is_score_dynamics(version):
        return measure_redrawable(context, version, sets, batch)
    if yes_no_question.is_question(version):
        return {}  # All metrics compare maps, and a question predicts none.
    detector = open_detector(context, detector_id)
    figures = {}
    for index, (name, items) in enumerate(sets.items()):
        context.report(index, len(sets), f"{version.name} on {name}")
        samples = StoredSamples(context.workspace, items)
        summary = context.models.evaluate_detector(
            detector, samples, batch=batch, threshold=threshold_of(version)
        )
        figures[name] = asdict(summary)
    return figures
