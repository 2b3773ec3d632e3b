"""Mine: the most informative images are queued for annotators.

Input: the champion's predictions on the round's images of hard categories. Output: a queue of at most the
recipe's budget, balanced over categories, most valuable first, each with a reason. Training and validation
images are queued alike. Cost: reading the candidates once, and further passes if the recipe weights
test-time variance, disagreement or encoder features.
"""

from collections import Counter

from dataengine.curation.mining import MiningCandidate, choose_images
from dataengine.records import QueueItem
from dataengine.records.images import HARD, SURVEY
from pipelines.detectors.training_data import read_categories
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.round_data import images_of, recipe_of, results_of
from pipelines.selections.mine import Mining, at_operating_point, find_candidates, queue_items
from pipelines.stages.stage import Stage


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
    detector_id = results_of(context, round_id)["diagnose"]["detector"]
    config = at_operating_point(context, recipe_of(context, round_id).mine, detector_id)
    choices = choose_images(_candidates(context, round_id), config)
    items = queue_items(choices, round_id, detector_id)
    fail_point("mine:chosen")
    with context.workspace.catalog() as catalog:
        catalog.queue.add_many(items)
        catalog.commit()
    return items


def _candidates(context: Context, round_id: str) -> list[MiningCandidate]:
    """Images of the hard categories; of all categories when none is hard."""
    recipe, results = recipe_of(context, round_id), results_of(context, round_id)
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
    mining = Mining(
        detector=results["diagnose"]["detector"],
        config=recipe.mine,
        categories=categories,
        upright=recipe.retrain.augmentation.upright,
        batch=recipe.diagnose.batch,
    )
    return find_candidates(context, chosen, mining, unreadable=[])


STAGE = Stage(
    name="mine",
    title="mine the most informative images",
    part="detector",
    section="mine",
    takes="images of the hard categories",
    found=lambda result: f"{result['queued']} images for annotators",
    work=mine,
)
