"""Predict artifact maps and store them, one prediction per image and detector."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from dataengine.masks import quantise
from dataengine.records import DetectorVersion, Image, Prediction
from pipelines.detectors import denoiser_variance, score_dynamics, vlm_boxes, yes_no_question
from pipelines.detectors.training_free import regenerates
from pipelines.runtime.context import Context
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import batches_of_equal_size, read_readable
from pipelines.runtime.open_detector import open_detector
from pipelines.runtime.prefetch import prefetch


def predict(
    context: Context,
    detector_id: str,
    images: Sequence[Image],
    batch: int,
    unreadable: list[str] | None = None,
) -> list[Prediction]:
    """Predictions of one detector for these images, in their order; missing ones are made and stored.

    Images whose files cannot be read are named in `unreadable` and omitted; without that list they raise.
    """
    ids = [image.id for image in images]
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
        missing = set(catalog.predictions.missing(detector_id, ids))
    _predict_missing(context, version, [image for image in images if image.id in missing], batch, unreadable)
    with context.workspace.catalog(read_only=True) as catalog:
        stored = {prediction.image_id: prediction for prediction in catalog.predictions.of(detector_id, ids)}
    return [stored[each] for each in ids if each in stored]


def _predict_missing(
    context: Context,
    version: DetectorVersion,
    images: Sequence[Image],
    batch: int,
    unreadable: list[str] | None,
) -> None:
    if not images:
        return
    iter_batches: Callable[..., Iterator[Any]]
    to_predictions: Callable[[Any], list[Prediction]] = partial(_store_maps, context, version.id)
    if yes_no_question.is_question(version):
        iter_batches = partial(yes_no_question.iter_predictions, unreadable=unreadable)
        to_predictions = list
    elif score_dynamics.is_score_dynamics(version):
        iter_batches = score_dynamics.iter_dynamics_maps
    elif vlm_boxes.is_boxes(version):
        iter_batches = partial(vlm_boxes.iter_box_maps, unreadable=unreadable)
    elif regenerates(version):
        iter_batches = denoiser_variance.iter_variance_maps
    else:
        iter_batches = partial(_iter_network_maps, unreadable=unreadable)

    def store(batch_result: Any) -> int:
        predictions = to_predictions(batch_result)
        fail_point("diagnose:maps")
        with context.workspace.catalog() as catalog:
            catalog.predictions.add_many(predictions)
            catalog.commit()
        return len(predictions)

    done = 0
    context.report(done, len(images), f"{version.name} predicts")
    # One batch is stored while the next is predicted, so that the device does not wait for the disk.
    for stored in prefetch(iter_batches(context, version, images, batch), store, ahead=1):
        done += stored
        context.report(done, len(images), f"{version.name} predicts")


def _store_maps(
    context: Context, detector_id: str, maps_of_images: tuple[list[Image], list[np.ndarray]]
) -> list[Prediction]:
    """Store the maps of these images; returns their predictions."""
    refs = context.workspace.maps.put_many([quantise(each) for each in maps_of_images[1]])
    return [_prediction(*each, detector_id) for each in zip(*maps_of_images, refs, strict=True)]


def _iter_network_maps(
    context: Context,
    version: DetectorVersion,
    images: Sequence[Image],
    batch: int,
    unreadable: list[str] | None,
) -> Iterator[tuple[list[Image], list[np.ndarray]]]:
    """Batches of the images with the maps that a trained detector predicts from their pixels."""
    detector = open_detector(context, version.id)

    def load(group: list[Image]) -> tuple[list[Image], list[np.ndarray]]:
        return read_readable(context.workspace, group, unreadable)

    for group, pixels in prefetch(batches_of_equal_size(images, batch), load):
        if group:
            yield group, context.models.artifact_maps(detector, pixels, batch)


def _prediction(image: Image, confidence: np.ndarray, map_ref: str, detector_id: str) -> Prediction:
    return Prediction(
        image_id=image.id,
        detector_id=detector_id,
        max=float(confidence.max()),
        mean=float(confidence.mean()),
        uncertainty=mean_uncertainty(confidence),
        map_ref=map_ref,
    )


def mean_uncertainty(confidence: np.ndarray) -> float:
    """Uncertainty of a map: the mean over pixels of 4·p·(1 − p), which is 1 if every pixel is 0.5."""
    return float(np.mean(4 * confidence * (1 - confidence)))
