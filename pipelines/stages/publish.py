"""Publish: one immutable training set for the joint training.

Input: the round's true labels, pseudo-labels, real images, earlier labels. Output: a snapshot,
named by the hash of its rows; benchmark images are refused. Cost: one manifest, and predictions of the images
that dynamic shrink may change and that the detector has not seen.
"""

from pipelines.detectors.training_set import build_training_set, count_by_kind
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.round_data import recipe_of
from pipelines.stages.stage import Stage, images_by_kind


def publish(context: Context, round_id: str) -> Result:
    """Write the snapshot; the same rows always give the same one."""
    recipe = recipe_of(context, round_id)
    items = build_training_set(context, recipe.publish, round_id, recipe.retrain)
    fail_point("publish:composed")
    snapshot = context.workspace.snapshots.publish(items, round_id=round_id)
    return {"snapshot": snapshot.id, "rows": snapshot.rows, "composition": count_by_kind(items)}


STAGE = Stage(
    name="publish",
    title="publish the training set",
    part="detector",
    section="publish",
    takes="labels, pseudo-labels, real images",
    found=lambda result: f"Snapshot with {result['rows']:,} rows: {images_by_kind(result['composition'])}",
    work=publish,
)
