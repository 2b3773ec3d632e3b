"""Mine: the few images that teach the detector most go to people.

Input: the champion's predictions on the round's images of hard categories. Output: a queue of at most the
recipe's budget, balanced over categories, most valuable first, each with a reason. Training and validation
images are asked about alike. Cost: reading the candidates once.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dataengine.curation.mining import Candidate, Choice, choose, thumbnail_features
from dataengine.records import Image, QueueItem
from pipelines.composition import categories_of
from pipelines.context import Context, Result
from pipelines.failpoint import fail_point
from pipelines.pictures import alike, stack
from pipelines.steps import HARD, SURVEY, images_of, recipe_of, results_of


def mine(context: Context, round_id: str) -> Result:
    """Fill the round's queue, unless it is filled."""
    with context.workspace.catalog(read_only=True) as catalog:
        queued = catalog.queue.of_round(round_id)
    if not queued:
        queued = _fill(context, round_id)
    images = {image.id: image for image in images_of(context, round_id, SURVEY, HARD)}
    categories = categories_of(context, round_id, images.values())
    return {
        "queued": len(queued),
        "categories": dict(
            sorted(Counter(categories.get(item.image_id, "other") for item in queued).items())
        ),
        "validation": sum(images[item.image_id].split == "validation" for item in queued),
    }


def _fill(context: Context, round_id: str) -> list[QueueItem]:
    choices = choose(_candidates(context, round_id), recipe_of(context, round_id).mine)
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


def _candidates(context: Context, round_id: str) -> list[Candidate]:
    """Images of the hard categories; of all categories when none is hard."""
    results = results_of(context, round_id)
    images = images_of(context, round_id, SURVEY, HARD)
    categories = categories_of(context, round_id, images)
    hard = set(results["write_prompts"]["hard"]) or set(categories.values())
    with context.workspace.catalog(read_only=True) as catalog:
        answered = {label.image_id for label in catalog.labels.of_images([image.id for image in images])}
    chosen = [
        image
        for image in images
        if (image.purpose == HARD or categories.get(image.id) in hard) and image.id not in answered
    ]
    features = _features(context, chosen)
    with context.workspace.catalog(read_only=True) as catalog:
        found = catalog.predictions.of(results["diagnose"]["detector"], [image.id for image in chosen])
    return [
        Candidate(
            image_id=prediction.image_id,
            category=categories.get(prediction.image_id, ""),
            confidence=prediction.max,
            uncertainty=prediction.uncertainty,
            features=features[prediction.image_id],
        )
        for prediction in found
    ]


def _features(context: Context, images: Sequence[Image]) -> dict[str, np.ndarray]:
    """What each image looks like from afar."""
    features: dict[str, np.ndarray] = {}
    for group in alike(images, 64):
        context.report(len(features), len(images), "comparing candidates")
        vectors = thumbnail_features(stack(context.workspace, group))
        features.update(zip((image.id for image in group), vectors, strict=True))
    return features
