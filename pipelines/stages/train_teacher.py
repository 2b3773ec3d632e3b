"""Stage: train a teacher on human labels."""

from dataengine.errors import ConfigRefused
from pipelines.detectors.evaluation import evaluation_sets
from pipelines.detectors.train import train_version
from pipelines.detectors.training_data import read_training_data
from pipelines.detectors.training_set import count_by_kind, labelled_or_real, measure_confidence
from pipelines.runtime.context import Context, Result
from pipelines.runtime.open_detector import champion_version
from pipelines.runtime.round_data import recipe_of
from pipelines.stages.stage import Stage, images_by_kind


def train_teacher(context: Context, round_id: str) -> Result:
    """Train from the champion on human labels and real images."""
    recipe = recipe_of(context, round_id)
    data = read_training_data(context.workspace, recipe.publish.labels, round_id)
    items = labelled_or_real(context.workspace.blobs, data, "train", recipe.publish)
    if not any(item.kind == "true" for item in items):
        raise ConfigRefused(
            "No training image of this round has a label. Give the mine stage a larger budget, "
            "or label more images."
        )
    items = measure_confidence(context, data, items, recipe.train_teacher)
    version = train_version(
        context,
        round_id,
        "train_teacher",
        "teacher",
        recipe.train_teacher,
        champion_version(context),
        items,
        evaluation_sets(context, recipe.publish, round_id),
        recipe.evaluate,
        pausing=context.pausing,
    )
    return {"detector": version.id, "samples": count_by_kind(items), **version.metrics}


STAGE = Stage(
    name="train_teacher",
    title="train the teacher",
    part="detector",
    section="train_teacher",
    takes="human labels, real images, earlier training sets",
    found=lambda result: f"Teacher trained on {images_by_kind(result['samples'])}",
    work=train_teacher,
)
