"""The champion, and detectors kept open between shards."""

from typing import TYPE_CHECKING

from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion
from pipelines.runtime.context import Context

if TYPE_CHECKING:
    from dataengine.diagnosis.detector import Detector


def champion_version(context: Context) -> DetectorVersion:
    """The detector in use. Raises `ConfigRefused` when there is none."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.champion()
    if version is None:
        raise ConfigRefused(
            "This workspace has no champion detector, and a round needs one to begin with. "
            "Register a detector and promote it, or start with `clinic demo`."
        )
    return version


def open_detector(context: Context, detector_id: str) -> "Detector":
    """A registered detector, ready to look. It stays open for the next shard: leave it as it is."""
    with context.workspace.catalog(read_only=True) as catalog:
        checkpoint = catalog.detectors.get(detector_id).checkpoint
    kept = context.models.kept
    if checkpoint not in kept:
        kept.clear()
        kept[checkpoint] = context.models.open_detector(context.workspace.checkpoints.fetch(checkpoint))
    return kept[checkpoint]
