"""Train a detector on a training set of the workspace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dataengine.diagnosis.config import DetectorTrainingConfig
from dataengine.errors import NotFound
from dataengine.records import DetectorVersion, SnapshotItem, digest
from pipelines.config import EvaluateConfig
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.operating_point import choose_on_validation
from pipelines.runtime.context import Context
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.scratch import discard_scratch, scratch_folder
from storage.queries.domains import count_elsewhere


def train_version(
    context: Context,
    run: str,
    stage: str,
    role: Literal["teacher", "candidate"],
    config: DetectorTrainingConfig,
    start: DetectorVersion,
    items: list[SnapshotItem],
    sets: Mapping[str, Sequence[SnapshotItem]],
    evaluation: EvaluateConfig,
    snapshot_id: str | None = None,
    name: str = "",
    **watched: Any,
) -> DetectorVersion:
    """Train a detector from `start` on these rows; a repeated call returns the same detector.

    Its operating point is chosen on the validation rows among `sets`, as `evaluation` says.
    `run` is the id of a round, or, with `name`, of a training run outside rounds.
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
    with scratch_folder(context.workspace, work_id) as work:
        result = context.models.train_detector(config, samples, folder, work, context.report, **watched)
    fail_point(f"{stage}:trained")
    trained = context.models.open_detector(Path(result.folder))
    with context.workspace.catalog(read_only=True) as catalog:
        foreign = count_elsewhere(catalog, {item.image_id for item in items}) if start.domain else 0
    version = DetectorVersion(
        id=detector_id,
        name=name or f"{'teacher' if role == 'teacher' else 'detector'} of {run}",
        checkpoint=context.workspace.checkpoints.publish(Path(result.folder)),
        role=role,
        config=config.model_dump(mode="json"),
        metrics={"training": dict(result.metrics)},
        operating_point=choose_on_validation(context, trained, sets, evaluation),
        parent=start.id,
        snapshot_id=snapshot_id,
        round_id=None if name else run,
        licence=start.licence,
        domain="" if foreign else start.domain,
    )
    with context.workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
    discard_scratch(context.workspace, work_id)
    return version
