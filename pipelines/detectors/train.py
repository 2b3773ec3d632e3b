"""Train a detector on a training set of the workspace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dataengine.diagnosis.config import DetectorConfig, DetectorTrainingConfig
from dataengine.errors import NotFound
from dataengine.licences import inherited_licence
from dataengine.records import CLINIC, DetectorVersion, SnapshotItem, digest, round_name
from pipelines.config import EvaluateConfig
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.operating_point import choose_on_validation
from pipelines.runtime.context import Context
from pipelines.runtime.failpoint import fail_point
from pipelines.runtime.scratch import discard_scratch, scratch_folder
from storage.queries.domains import count_elsewhere
from storage.queries.licences import licences_of


def train_version(
    context: Context,
    run: str,
    stage: str,
    role: Literal["teacher", "candidate"],
    config: DetectorTrainingConfig,
    start: DetectorVersion | None,
    items: list[SnapshotItem],
    sets: Mapping[str, Sequence[SnapshotItem]],
    evaluation: EvaluateConfig,
    snapshot_id: str | None = None,
    name: str = "",
    **watched: Any,
) -> DetectorVersion:
    """Train a detector on these rows from `start`, or, where it is None, from what `config` names; a repeated
    call returns the same detector.

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
    folder = context.workspace.checkpoints.fetch(start.checkpoint) if start else None
    samples = StoredSamples(context.workspace, items)
    with scratch_folder(context.workspace, work_id) as work:
        result = context.models.train_detector(config, samples, folder, work, context.report, **watched)
    fail_point(f"{stage}:trained")
    trained = context.models.open_detector(Path(result.folder))
    network = getattr(trained, "config", None)
    about = network if isinstance(network, DetectorConfig) else DetectorConfig()
    image_ids = {item.image_id for item in items}
    domain = CLINIC if start is None else start.domain
    with context.workspace.catalog(read_only=True) as catalog:
        foreign = count_elsewhere(catalog, image_ids) if domain else 0
        licences = licences_of(catalog, image_ids)
        numbers = catalog.rounds.numbers()
        what = "teacher" if role == "teacher" else "detector"
        called = catalog.detectors.free_name(name or f"{what} of {round_name(numbers, run)}")
    version = DetectorVersion(
        id=detector_id,
        name=called,
        checkpoint=context.workspace.checkpoints.publish(Path(result.folder)),
        role=role,
        config=config.model_dump(mode="json"),
        metrics={
            "training": {**result.metrics, "pretrained": about.pretrained, "images_by_licence": licences}
        },
        operating_point=choose_on_validation(context, trained, sets, evaluation),
        parent=start.id if start else None,
        snapshot_id=snapshot_id,
        round_id=None if name else run,
        licence=inherited_licence(start.licence if start else about.licence, licences),
        domain="" if foreign else domain,
    )
    with context.workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
    discard_scratch(context.workspace, work_id)
    return version
