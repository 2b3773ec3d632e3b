"""Pseudo-label: the teacher's maps become labels of images without a human label (DiffDoctor, Sec. 3.2).

Input: the round's unlabelled training images, the teacher. Output: a pseudo-label for each. The teacher is
the *updated* detector: the champion's false alarms would be baked in. Cost: one forward pass per image.
"""

from collections.abc import Sequence

from dataengine.records import Image, PseudoLabel, threshold_of
from dataengine.records.images import HARD, SURVEY
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.round_data import images_of, recipe_of, results_of
from pipelines.runtime.shards import Shard, shard_bounds
from pipelines.stages.stage import Sharded, Stage


def shards(context: Context, round_id: str) -> list[Shard]:
    """Consecutive parts of the unlabelled training images."""
    size = recipe_of(context, round_id).pseudo_label.shard
    return [
        {"start": start, "stop": stop}
        for start, stop in shard_bounds(len(_unlabelled(context, round_id)), size)
    ]


def run_shard(context: Context, round_id: str, shard: Shard) -> Result:
    """Label one part."""
    images = _unlabelled(context, round_id)[shard["start"] : shard["stop"]]
    teacher = results_of(context, round_id)["train_teacher"]["detector"]
    predictions = predict(context, teacher, images, recipe_of(context, round_id).pseudo_label.batch)
    labels = [
        PseudoLabel(
            image_id=found.image_id,
            detector_id=teacher,
            round_id=round_id,
            map_ref=found.map_ref or "",
            max=found.max,
        )
        for found in predictions
    ]
    fail_point("pseudo_label:predicted")
    with context.workspace.catalog() as catalog:
        threshold = threshold_of(catalog.detectors.get(teacher))
        catalog.pseudo_labels.add_many(labels)
        catalog.commit()
    return {"images": len(labels), "flawed": sum(label.max >= threshold for label in labels)}


def finish(context: Context, round_id: str, answers: Sequence[Result]) -> Result:
    """How many images the teacher labelled, and how many as flawed."""
    return {
        "images": sum(answer["images"] for answer in answers),
        "flawed": sum(answer["flawed"] for answer in answers),
    }


def _unlabelled(context: Context, round_id: str) -> list[Image]:
    """Training images without a person's label, hard cases first, at most the recipe's limit."""
    images = [image for image in images_of(context, round_id, SURVEY, HARD) if image.split == "train"]
    with context.workspace.catalog(read_only=True) as catalog:
        answered = {label.image_id for label in catalog.labels.of_images([image.id for image in images])}
    free = [image for image in images if image.id not in answered]
    free.sort(key=lambda image: (image.purpose != HARD, image.id))
    return free[: recipe_of(context, round_id).pseudo_label.limit]


STAGE = Stage(
    name="pseudo_label",
    title="pseudo-label the unlabelled images",
    part="detector",
    section="pseudo_label",
    takes="unlabelled images",
    found=lambda result: f"{result['images']} pseudo-labels by the teacher, {result['flawed']} flawed",
    work=Sharded(shards=shards, run_shard=run_shard, finish=finish),
)
