"""Look up the champion, and open detectors, cached between shards."""

from typing import TYPE_CHECKING

from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion
from pipelines.runtime.context import Context

if TYPE_CHECKING:
    from dataengine.diagnosis.detector import Detector


def champion_version(context: Context) -> DetectorVersion:
    """The champion. Raises `ConfigRefused` if there is none."""
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.champion()
    if version is None:
        raise ConfigRefused(
            "This workspace has no champion detector. Register one with `clinic detectors --add PATH` (the "
            "first becomes champion), name one, train one with `clinic retrain --start imagenet --recipe "
            "photo`, or start with `clinic demo`."
        )
    return version


def open_detector(context: Context, detector_id: str) -> "Detector":
    """Open a registered detector. It is cached for the next shard, so callers must not modify it."""
    with context.workspace.catalog(read_only=True) as catalog:
        checkpoint = catalog.detectors.get(detector_id).checkpoint
    kept = context.models.kept
    if checkpoint not in kept:
        kept.clear()
        kept[checkpoint] = context.models.open_detector(context.workspace.checkpoints.fetch(checkpoint))
    return kept[checkpoint]
