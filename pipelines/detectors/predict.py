"""Predict artifact maps and keep them, one prediction per image and detector."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from dataengine.masks import quantise
from dataengine.records import DetectorVersion, Image, Prediction
from pipelines.detectors import score_dynamics, yes_no_question
from pipelines.runtime.context import Context
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import batches_of_equal_size, read_pixels
from pipelines.runtime.open_detector import open_detector
from pipelines.runtime.prefetch import prefetch


def predict(context: Context, detector_id: str, images: Sequence[Image], batch: int) -> list[Prediction]:
    """Predictions of one detector for these images, in their order; what is missing is made and kept."""
    ids = [image.id for image in images]
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
        absent = set(catalog.predictions.missing(detector_id, ids))
    _predict_missing(context, version, [image for image in images if image.id in absent], batch)
    with context.workspace.catalog(read_only=True) as catalog:
        found = {prediction.image_id: prediction for prediction in catalog.predictions.of(detector_id, ids)}
    return [found[each] for each in ids]


def _predict_missing(context: Context, version: DetectorVersion, images: Sequence[Image], batch: int) -> None:
    if not images:
        return
    look: Callable[..., Iterator[Any]]
    made: Callable[[Any], list[Prediction]] = partial(_store_maps, context, version.id)
    if yes_no_question.is_question(version):
        look, made = yes_no_question.iter_predictions, list
    else:
        look = (
            score_dynamics.iter_dynamics_maps
            if score_dynamics.is_score_dynamics(version)
            else _iter_network_maps
        )

    def keep(found: Any) -> int:
        predictions = made(found)
        fail_point("diagnose:maps")
        with context.workspace.catalog() as catalog:
            catalog.predictions.add_many(predictions)
            catalog.commit()
        return len(predictions)

    done = 0
    context.report(done, len(images), f"{version.name} looks")
    # What was seen is kept while the next is looked at, so that nothing waits for the disk.
    for kept in prefetch(look(context, version, images, batch), keep, ahead=1):
        done += kept
        context.report(done, len(images), f"{version.name} looks")


def _store_maps(
    context: Context, detector_id: str, found: tuple[list[Image], list[np.ndarray]]
) -> list[Prediction]:
    """Predictions of images and their maps, which are kept."""
    refs = context.workspace.maps.put_many([quantise(each) for each in found[1]])
    return [_prediction(*each, detector_id) for each in zip(*found, refs, strict=True)]


def _iter_network_maps(
    context: Context, version: DetectorVersion, images: Sequence[Image], batch: int
) -> Iterator[tuple[list[Image], list[np.ndarray]]]:
    """Batches of the images with the maps of a trained detector, which looks at their pixels."""
    detector = open_detector(context, version.id)

    def load(group: list[Image]) -> tuple[list[Image], list[np.ndarray]]:
        return group, [read_pixels(context.workspace, image) for image in group]

    for group, pixels in prefetch(batches_of_equal_size(images, batch), load):
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
    """How undecided a map is: the mean over pixels of 4·p·(1 − p), 1 where every pixel stands at one half."""
    return float(np.mean(4 * confidence * (1 - confidence)))
