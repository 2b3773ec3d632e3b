"""Train the teacher: the champion learns from what people have just answered (DiffDoctor, Sec. 3.2).

Input: the round's true labels, artifact-free real pictures, what was labelled before. Output: a detector of
role "teacher", which is going to label the rest. Cost: one short training, resumed where it was after a
crash.
"""

from pathlib import Path
from typing import Any, Literal

from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.errors import ConfigRefused, NotFound
from dataengine.records import DetectorVersion, SnapshotItem, digest
from pipelines.composition import composition, labelled, real
from pipelines.context import Context, Result
from pipelines.failpoint import fail_point
from pipelines.handover import cleared, workplace
from pipelines.samples import StoredSamples
from pipelines.steps import champion, recipe_of


def train_teacher(context: Context, round_id: str) -> Result:
    """Train from the champion on true labels and real pictures."""
    recipe = recipe_of(context, round_id)
    items = labelled(context, round_id, "train", recipe.publish) + real(context, "train", recipe.publish)
    if not any(item.kind == "true" for item in items):
        raise ConfigRefused(
            "No training image of this round has a label. Give the mine stage a larger budget, "
            "or label more images."
        )
    version = learn(
        context, round_id, "train_teacher", "teacher", recipe.train_teacher, champion(context), items
    )
    return {"detector": version.id, "samples": composition(items), **version.metrics}


def learn(
    context: Context,
    run: str,
    stage: str,
    role: Literal["teacher", "candidate"],
    config: DetectorTrainingConfig,
    start: DetectorVersion,
    items: list[SnapshotItem],
    snapshot_id: str | None = None,
    name: str = "",
    **watched: Any,
) -> DetectorVersion:
    """One training run from `start` on these rows; a repeated call gives the same detector.

    `run` is a round's id, or with a `name` that of a run which stands alone.
    """
    detector_id = digest("detector", run, stage)
    with context.workspace.catalog(read_only=True) as catalog:
        try:
            return catalog.detectors.get(detector_id)
        except NotFound:
            pass
    work_id = f"{run}-{stage}"
    folder = context.workspace.checkpoints.fetch(start.checkpoint)
    samples = StoredSamples(context.workspace, items)
    with workplace(context.workspace, work_id) as work:
        result = context.tools.train_detector(config, samples, folder, work, context.report, **watched)
    fail_point(f"{stage}:trained")
    version = DetectorVersion(
        id=detector_id,
        name=name or f"{'teacher' if role == 'teacher' else 'detector'} of {run}",
        checkpoint=context.workspace.checkpoints.publish(Path(result.folder)),
        role=role,
        config=config.model_dump(mode="json"),
        metrics={"training": dict(result.metrics)},
        parent=start.id,
        snapshot_id=snapshot_id,
        round_id=None if name else run,
        licence=start.licence,
    )
    with context.workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
    cleared(context.workspace, work_id)
    return version
