"""Mine: the most informative images are queued for annotators.

Input: the champion's predictions on the round's images of hard categories. Output: a queue of at most the
recipe's budget, balanced over categories, most valuable first, each with a reason. Training and validation
images are queued alike. Cost: reading the candidates once, and further passes if the recipe weights
test-time variance, disagreement or encoder features.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.curation.mining import Choice, MiningCandidate, choose_images, thumbnail_features
from dataengine.masks import dequantise
from dataengine.records import Image, QueueItem
from dataengine.records.images import HARD, SURVEY
from pipelines.detectors import score_dynamics, yes_no_question
from pipelines.detectors.predict import predict
from pipelines.detectors.training_data import read_categories
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.images import batches_of_equal_size, read_stacked
from pipelines.runtime.open_detector import open_detector
from pipelines.runtime.round_data import images_of, recipe_of, results_of
from pipelines.stages.stage import Stage

BATCH = 64


def mine(context: Context, round_id: str) -> Result:
    """Fill the round's queue, unless it is filled already."""
    with context.workspace.catalog(read_only=True) as catalog:
        queued = catalog.queue.of_round(round_id)
    if not queued:
        queued = _fill(context, round_id)
    images = {image.id: image for image in images_of(context, round_id, SURVEY, HARD)}
    categories = read_categories(context.workspace, round_id, images.values())
    return {
        "queued": len(queued),
        "categories": dict(
            sorted(Counter(categories.get(item.image_id, "other") for item in queued).items())
        ),
        "validation": sum(images[item.image_id].split == "validation" for item in queued),
    }


def _fill(context: Context, round_id: str) -> list[QueueItem]:
    choices = choose_images(_candidates(context, round_id), recipe_of(context, round_id).mine)
    items = [_queue_item(round_id, choice) for choice in choices]
    fail_point("mine:chosen")
    with context.workspace.catalog() as catalog:
        catalog.queue.add_many(items)
        catalog.commit()
    return items


def _queue_item(round_id: str, choice: Choice) -> QueueItem:
    return QueueItem(
        image_id=choice.image_id, round_id=round_id, priority=choice.priority, reason=choice.reason
    )


def _candidates(context: Context, round_id: str) -> list[MiningCandidate]:
    """Images of the hard categories; of all categories when none is hard."""
    results = results_of(context, round_id)
    images = images_of(context, round_id, SURVEY, HARD)
    categories = read_categories(context.workspace, round_id, images)
    hard = set(results["write_prompts"]["hard"]) or set(categories.values())
    with context.workspace.catalog(read_only=True) as catalog:
        answered = {label.image_id for label in catalog.labels.of_images([image.id for image in images])}
    chosen = [
        image
        for image in images
        if (image.purpose == HARD or categories.get(image.id) in hard) and image.id not in answered
    ]
    detector_id = results["diagnose"]["detector"]
    features_of = _pixel_features(context, round_id, detector_id, chosen, categories)
    with context.workspace.catalog(read_only=True) as catalog:
        found = catalog.predictions.of(detector_id, [image.id for image in chosen])
    disagreements = _disagreement(context, round_id, detector_id, chosen)
    return [
        MiningCandidate(
            image_id=prediction.image_id,
            category=categories.get(prediction.image_id, ""),
            confidence=prediction.max,
            uncertainty=prediction.uncertainty,
            variance=features_of[prediction.image_id].variance,
            disagreement=disagreements.get(prediction.image_id, 0.0),
            features=features_of[prediction.image_id].features,
            thumbnail=features_of[prediction.image_id].thumbnail,
        )
        for prediction in found
    ]


@dataclass(frozen=True, slots=True)
class PixelFeatures:
    """Features of a candidate's pixels."""

    thumbnail: np.ndarray
    features: np.ndarray
    variance: float


def _pixel_features(
    context: Context, round_id: str, detector_id: str, images: Sequence[Image], categories: Mapping[str, str]
) -> dict[str, PixelFeatures]:
    """Thumbnails of all candidates; the champion is loaded only if the recipe needs it."""
    recipe = recipe_of(context, round_id)
    config, upright = recipe.mine, recipe.retrain.augmentation.upright
    detector = None
    if config.features == "encoder" or config.variance > 0:
        detector = open_detector(context, detector_id)
    features_of: dict[str, PixelFeatures] = {}
    for group in batches_of_equal_size(images, BATCH):
        context.report(len(features_of), len(images), "comparing candidates")
        pixels = read_stacked(context.workspace, group)
        thumbnails = features = thumbnail_features(pixels)
        variances = [0.0] * len(group)
        if detector is not None and config.features == "encoder":
            features = context.models.encoder_features(detector, list(pixels), BATCH)
        if detector is not None and config.variance > 0:
            from dataengine.diagnosis.uncertainty import view_variance

            flips = [categories.get(image.id) not in upright for image in group]
            variances = view_variance(detector, list(pixels), flips, BATCH)
        for image, *values in zip(group, thumbnails, features, variances, strict=True):
            features_of[image.id] = PixelFeatures(*values)
    return features_of


def _disagreement(
    context: Context, round_id: str, detector_id: str, images: Sequence[Image]
) -> dict[str, float]:
    """Mean difference of each image's map to the second detector's, or of both verdicts on the whole image
    where that gives no map; empty when it has no weight or there is no second detector."""
    recipe = recipe_of(context, round_id)
    if recipe.mine.disagreement == 0:
        return {}
    with context.workspace.catalog(read_only=True) as catalog:
        known = {found.id: found for found in catalog.detectors.list()}
    others = [
        name
        for name, found in known.items()
        if name != detector_id
        and found.removed is None
        and not score_dynamics.is_score_dynamics(found)
        and not yes_no_question.is_question(found)
    ]
    second = recipe.mine.second_detector or (others[-1] if others else "")
    if not second:
        return {}
    if score_dynamics.is_score_dynamics(known.get(second)):
        images = score_dynamics.redrawable_images(images)
    batch = recipe.diagnose.batch
    pairs = zip(
        predict(context, detector_id, images, batch), predict(context, second, images, batch), strict=True
    )
    if yes_no_question.is_question(known.get(second)):
        return {one.image_id: abs(one.max - other.max) for one, other in pairs}
    maps = context.workspace.maps
    return {
        one.image_id: float(
            np.abs(dequantise(maps.get(one.map_ref)) - dequantise(maps.get(other.map_ref))).mean()
        )
        for one, other in pairs
        if one.map_ref and other.map_ref
    }


STAGE = Stage(
    name="mine",
    title="mine the most informative images",
    part="detector",
    section="mine",
    takes="images of the hard categories",
    found=lambda result: f"{result['queued']} images for annotators",
    work=mine,
)
