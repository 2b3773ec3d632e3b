"""Diagnose: the champion marks where images are broken.

Input: the round's images of one purpose ("survey", "hard"). Output: a prediction for each (maximum, mean,
uncertainty, map), the maps packed by batch. Cost: one forward pass an image; predictions that exist are
skipped.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from dataengine.masks import quantise
from dataengine.records import DetectorVersion, Image, Prediction
from pipelines import dynamics, questioning
from pipelines.context import Context, Result
from pipelines.engines import prefetched
from pipelines.failpoint import fail_point
from pipelines.pictures import alike, read
from pipelines.steps import SURVEY, Shard, champion, images_of, opened, recipe_of, run_all, slices


def diagnose(context: Context, round_id: str, purpose: str = SURVEY) -> Result:
    """Predict every image of one purpose that the champion has not seen."""
    answers = run_all(context, round_id, run_shard, shards(context, round_id, purpose))
    return finish(context, round_id, answers)


def shards(context: Context, round_id: str, purpose: str = SURVEY) -> list[Shard]:
    """Consecutive parts of the round's images, and the detector that is champion now."""
    count = len(images_of(context, round_id, purpose))
    detector = champion(context).id
    return [
        {"purpose": purpose, "detector": detector, "start": start, "stop": stop}
        for start, stop in slices(count, recipe_of(context, round_id).diagnose.shard)
    ]


def run_shard(context: Context, round_id: str, shard: Shard) -> Result:
    """Predict one part; score dynamics and a VQA model look too where the recipe asks for them."""
    images = images_of(context, round_id, shard["purpose"])[shard["start"] : shard["stop"]]
    config = recipe_of(context, round_id).diagnose
    predictions = predict(context, shard["detector"], images, config.batch)
    if config.dynamics is not None:
        watcher = dynamics.detector_for(context.workspace, config.dynamics)
        predict(context, watcher.id, dynamics.drawn_here(images), config.batch)
    if config.question is not None:
        asker = questioning.detector_for(context.workspace, config.question)
        predict(context, asker.id, images, config.batch)
    return {
        "detector": shard["detector"],
        "images": len(images),
        "sum_max": sum(prediction.max for prediction in predictions),
        "suspected": sum(prediction.max >= 0.5 for prediction in predictions),
    }


def finish(context: Context, round_id: str, answers: Sequence[Result]) -> Result:
    """Mean of the images' highest confidence, and how many reach one half."""
    images = sum(answer["images"] for answer in answers)
    return {
        "detector": answers[0]["detector"] if answers else champion(context).id,
        "images": images,
        "mean_max": sum(answer["sum_max"] for answer in answers) / max(images, 1),
        "suspected": sum(answer["suspected"] for answer in answers),
    }


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
    made: Callable[[Any], list[Prediction]] = partial(_mapped, context, version.id)
    if questioning.asks(version):
        look, made = questioning.answered, list
    else:
        look = dynamics.watched if dynamics.watches(version) else _looked_at

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
    for kept in prefetched(look(context, version, images, batch), keep, ahead=1):
        done += kept
        context.report(done, len(images), f"{version.name} looks")


def _mapped(
    context: Context, detector_id: str, found: tuple[list[Image], list[np.ndarray]]
) -> list[Prediction]:
    """Predictions of images and their maps, which are kept."""
    refs = context.workspace.maps.put_many([quantise(each) for each in found[1]])
    return [_prediction(*each, detector_id) for each in zip(*found, refs, strict=True)]


def _looked_at(
    context: Context, version: DetectorVersion, images: Sequence[Image], batch: int
) -> Iterator[tuple[list[Image], list[np.ndarray]]]:
    """Batches of the images with the maps of a trained detector, which looks at their pixels."""
    detector = opened(context, version.id)

    def load(group: list[Image]) -> tuple[list[Image], list[np.ndarray]]:
        return group, [read(context.workspace, image) for image in group]

    for group, pixels in prefetched(alike(images, batch), load):
        yield group, context.tools.artifact_maps(detector, pixels, batch)


def _prediction(image: Image, confidence: np.ndarray, map_ref: str, detector_id: str) -> Prediction:
    return Prediction(
        image_id=image.id,
        detector_id=detector_id,
        max=float(confidence.max()),
        mean=float(confidence.mean()),
        uncertainty=uncertainty(confidence),
        map_ref=map_ref,
    )


def uncertainty(confidence: np.ndarray) -> float:
    """How undecided a map is: the mean over pixels of 4·p·(1 − p), 1 where every pixel stands at one half."""
    return float(np.mean(4 * confidence * (1 - confidence)))
