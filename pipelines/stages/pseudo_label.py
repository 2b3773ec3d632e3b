"""Pseudo-label: the teacher's maps become labels of images without a human label (DiffDoctor, Sec. 3.2).

Input: the round's training images that were not mined, the teacher. Output: a pseudo-label for each. The
teacher is the *updated* detector: the champion's false alarms would be baked in. Cost: one forward pass per
image.
"""

from collections.abc import Sequence

from dataengine.records import Image
from dataengine.records.images import HARD, SURVEY
from pipelines.runtime.context import Context, Result
from pipelines.runtime.round_data import images_of, recipe_of, results_of
from pipelines.runtime.shards import Shard, shard_bounds
from pipelines.selections.diagnose import sum_unreadable
from pipelines.selections.pseudo_label import pseudo_label, without_people
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
    return pseudo_label(context, teacher, images, round_id, recipe_of(context, round_id).pseudo_label.batch)


def finish(context: Context, round_id: str, answers: Sequence[Result]) -> Result:
    """How many images the teacher labelled, and how many as flawed."""
    return {
        "images": sum(answer["images"] for answer in answers),
        "flawed": sum(answer["flawed"] for answer in answers),
        **sum_unreadable(answers),
    }


def _unlabelled(context: Context, round_id: str) -> list[Image]:
    """Training images that people leave alone, hard cases first, at most the recipe's limit."""
    free = without_people(context, images_of(context, round_id, SURVEY, HARD))
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
