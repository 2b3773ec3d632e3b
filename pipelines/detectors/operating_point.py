"""Choose a detector's operating point on the workspace's validation images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dataengine.records import DetectorVersion, OperatingPoint, SnapshotItem
from pipelines.config import EvaluateConfig
from pipelines.detectors import vlm_boxes, yes_no_question
from pipelines.detectors.dataset import StoredSamples
from pipelines.detectors.training_free import regenerates
from pipelines.runtime.context import Context
from pipelines.runtime.open_detector import open_detector

if TYPE_CHECKING:
    from dataengine.diagnosis.detector import Detector

BY_DEFINITION = "it gives 0.5 or more exactly where it finds an artifact"
"""Why score dynamics and questions keep `THRESHOLD`."""

BY_IMPORTANCE = "it gives the importance that the model answers, and flags from 50 of 100"


def choose_on_validation(
    context: Context, detector: "Detector", sets: Mapping[str, Sequence[SnapshotItem]], config: EvaluateConfig
) -> OperatingPoint:
    """The operating point by the configured rule on the validation rows among `sets`."""
    from dataengine.diagnosis.dataset import with_maps
    from dataengine.diagnosis.operating_point import operating_point_of

    samples = StoredSamples(context.workspace, validation_items(sets))
    examples = with_maps(
        samples,
        lambda images: context.models.artifact_maps(detector, images, config.batch),
        config.batch,
        context.report,
    )
    return operating_point_of(examples, config.operating_point)


def validation_items(sets: Mapping[str, Sequence[SnapshotItem]]) -> list[SnapshotItem]:
    """The labelled validation images; with real ones, which are free of artifacts, if every label marks one.

    Otherwise real photos are left out: they are easier than generated images without a flaw.
    """
    labelled = list(sets.get("validation", []))
    if any(item.target is None for item in labelled):
        return labelled
    return labelled + list(sets.get("validation_real", []))


def set_operating_point(
    context: Context,
    detector_id: str,
    sets: Mapping[str, Sequence[SnapshotItem]],
    config: EvaluateConfig,
) -> DetectorVersion:
    """Choose the detector's operating point and store it over an earlier one; returns the detector."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    if regenerates(version) or yes_no_question.is_question(version):
        point = OperatingPoint(reason=BY_DEFINITION)
    elif vlm_boxes.is_boxes(version):
        point = OperatingPoint(reason=BY_IMPORTANCE)
    else:
        point = choose_on_validation(context, open_detector(context, detector_id), sets, config)
    with context.workspace.catalog() as catalog:
        catalog.detectors.set_operating_point(detector_id, point)
        catalog.commit()
        return catalog.detectors.get(detector_id)


def ensure_operating_point(
    context: Context,
    detector_id: str,
    sets: Mapping[str, Sequence[SnapshotItem]],
    config: EvaluateConfig,
) -> DetectorVersion:
    """The detector, with an operating point chosen now if it has none and there are validation images."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    if version.operating_point is None and validation_items(sets):
        return set_operating_point(context, detector_id, sets, config)
    return version
