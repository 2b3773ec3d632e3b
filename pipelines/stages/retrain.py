"""Retrain: joint training on true labels, pseudo-labels and real images (DiffDoctor, Sec. 3.2).

Input: the round's snapshot. Output: a detector of role "candidate". Dynamic shrink and strong augmentation
belong to the training itself. Cost: the longest training of a round, which resumes from checkpoints.
"""

from pipelines.detectors.evaluation import evaluation_sets
from pipelines.detectors.train import train_version
from pipelines.detectors.training_set import count_by_kind
from pipelines.runtime.context import Context, Result
from pipelines.runtime.round_data import recipe_of, results_of
from pipelines.stages.stage import Stage, images_by_kind


def retrain(context: Context, round_id: str) -> Result:
    """Continue training the teacher, which has seen the true labels, on the published snapshot."""
    results = results_of(context, round_id)
    snapshot_id = results["publish"]["snapshot"]
    snapshots = context.workspace.snapshots
    items = snapshots.present(snapshots.read(snapshot_id))
    recipe = recipe_of(context, round_id)
    with context.workspace.catalog(read_only=True) as catalog:
        teacher = catalog.detectors.get(results["train_teacher"]["detector"])
    version = train_version(
        context,
        round_id,
        "retrain",
        "candidate",
        recipe.retrain,
        teacher,
        items,
        evaluation_sets(context, recipe.publish, round_id),
        recipe.evaluate,
        snapshot_id,
        pausing=context.pausing,
    )
    return {"detector": version.id, "samples": count_by_kind(items), **version.metrics}


STAGE = Stage(
    name="retrain",
    title="retrain the detector",
    part="detector",
    section="retrain",
    takes="the published training set",
    found=lambda result: f"Candidate trained on {images_by_kind(result['samples'])}",
    work=retrain,
)
