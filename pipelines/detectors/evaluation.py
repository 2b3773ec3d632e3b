"""Evaluate detectors on the validation and benchmark sets, each at its own operating point."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dataengine.masks import dequantise
from dataengine.records import (
    THRESHOLD,
    DetectorVersion,
    Image,
    OperatingPoint,
    SnapshotItem,
    Split,
    component_threshold_of,
    digest,
    threshold_of,
)
from pipelines.config import EvaluateConfig, PublishConfig
from pipelines.detectors import vlm_boxes, yes_no_question
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.operating_point import ensure_operating_point
from pipelines.detectors.score_dynamics import redrawable_images
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_free import regenerates
from pipelines.detectors.training_set import labelled_items, real_items
from pipelines.runtime.context import Context
from pipelines.runtime.open_detector import open_detector

if TYPE_CHECKING:
    import numpy as np

    from dataengine.diagnosis.dataset import Sample
    from dataengine.diagnosis.image_metrics import ImageMetrics

Sets = Mapping[str, Sequence[SnapshotItem]]
Rows = dict[str, dict[str, "ImageMetrics"]]
"""The metrics of each image, by set and image id."""

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


def measure_on_sets(context: Context, detector_id: str, sets: Sets, batch: int) -> dict[str, Any]:
    """One detector's metrics on each set."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    return summarise_sets(version, measure_images(context, version, sets, batch))


def compare_detectors(
    context: Context, before_id: str, after_id: str, sets: Sets, config: EvaluateConfig
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Both detectors' metrics on each set, and by set the paired differences of `compare_at`.

    Each is measured at its own operating point, which is chosen first if it has none.
    """
    from dataengine.diagnosis.operating_point import compare_at

    before, after = (ensure_operating_point(context, id, sets, config) for id in (before_id, after_id))
    old = measure_images(context, before, sets, config.batch)
    new = old if after_id == before_id else measure_images(context, after, sets, config.batch)
    points = before.operating_point or OperatingPoint(), after.operating_point or OperatingPoint()
    comparison = {}
    for name in (each for each in old if each in new):
        ids = [id for id in old[name] if id in new[name]]
        changes = compare_at([old[name][id] for id in ids], [new[name][id] for id in ids], points)
        comparison[name] = {figure: asdict(change) for figure, change in changes.items()}
    return summarise_sets(before, old), summarise_sets(after, new), comparison


def record_comparison(
    context: Context,
    before_id: str,
    after_id: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    comparison: Mapping[str, Any],
) -> None:
    """Store both detectors' metrics, and those of the first and the differences with the second one."""
    with context.workspace.catalog() as catalog:
        catalog.detectors.record_metrics(before_id, before)
        if after_id != before_id:
            name = catalog.detectors.get(before_id).name
            beside = {"detector": before_id, "name": name, **before, "comparison": comparison}
            catalog.detectors.record_metrics(after_id, {**after, "beside": beside})
        catalog.commit()


def measure_images(context: Context, version: DetectorVersion, sets: Sets, batch: int) -> Rows:
    """One detector's metrics of each image of which it can predict a map; a set without any is left out."""
    from dataengine.diagnosis.image_metrics import image_metrics

    at, flagged = component_threshold_of(version), threshold_of(version)
    measured: Rows = {}
    for index, (name, items) in enumerate(sets.items()):
        context.report(index, len(sets), f"{version.name} on {name}")
        rows = {
            image_id: image_metrics(
                sample.target, q, sample.category or "", at, sample.label_map, flagged=flagged
            )
            for image_id, sample, q in _predicted(context, version, items, batch)
        }
        if rows:
            measured[name] = rows
    return measured


def summarise_sets(version: DetectorVersion, measured: Rows) -> dict[str, Any]:
    """The metrics of each set; "set" tells sets of images apart. Under "operating" stand misses and false
    alarms at the detector's own operating point, under "at_half" those at `THRESHOLD`."""
    from dataengine.diagnosis.metrics import summarise
    from dataengine.diagnosis.operating_point import figures_at

    own = threshold_of(version), component_threshold_of(version)
    figures = {}
    for name, by_image in measured.items():
        rows = list(by_image.values())
        figures[name] = {
            "set": digest(*sorted(by_image)),
            **asdict(summarise(rows)),
            "operating": asdict(figures_at(rows, *own)),
            "at_half": asdict(figures_at(rows, THRESHOLD, THRESHOLD)),
        }
    return figures


def _predicted(
    context: Context, version: DetectorVersion, items: Sequence[SnapshotItem], batch: int
) -> Iterator[tuple[str, "Sample", "np.ndarray"]]:
    """The images of which the detector can predict a map: (image id, labelled example, map)."""
    from dataengine.diagnosis.dataset import with_maps

    if yes_no_question.is_question(version):
        return  # All metrics compare maps, and a question predicts none.
    if regenerates(version):
        yield from _from_predictions(
            context, version, items, batch, lambda known: redrawable_images(known, version)
        )
        return
    if vlm_boxes.is_boxes(version):
        # What was answered is stored, and a model that is asked again may answer otherwise.
        yield from _from_predictions(context, version, items, batch, list)
        return
    detector = open_detector(context, version.id)
    examples = with_maps(
        StoredSamples(context.workspace, items),
        lambda images: context.models.artifact_maps(detector, images, batch),
        batch,
    )
    for item, (sample, q) in zip(items, examples, strict=True):
        yield item.image_id, sample, q


def _from_predictions(
    context: Context,
    version: DetectorVersion,
    items: Sequence[SnapshotItem],
    batch: int,
    usable: Callable[[Sequence[Image]], Sequence[Image]],
) -> Iterator[tuple[str, "Sample", "np.ndarray"]]:
    """The rows whose images have, or can be given, a stored map of this detector."""
    from pipelines.detectors.predict import predict

    with context.workspace.catalog(read_only=True) as catalog:
        known = catalog.images.get_many([item.image_id for item in items])
    images = {image.id: image for image in usable(known)}
    chosen = [item for item in items if item.image_id in images]
    made = predict(context, version.id, [images[item.image_id] for item in chosen], batch, unreadable=[])
    predictions = {prediction.image_id: prediction for prediction in made}
    chosen = [item for item in chosen if item.image_id in predictions]
    samples = StoredSamples(context.workspace, chosen)
    for index, item in enumerate(chosen):
        q = dequantise(context.workspace.maps.get(str(predictions[item.image_id].map_ref)))
        yield item.image_id, samples.sample(index), q
