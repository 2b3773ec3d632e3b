"""Candidates for annotation: what mining needs to know of images, and the queue items of its choices."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.curation.config import MiningConfig
from dataengine.curation.mining import Choice, MiningCandidate, thumbnail_features
from dataengine.masks import dequantise
from dataengine.records import Image, QueueItem, threshold_of
from pipelines.detectors import score_dynamics, training_free, vlm_boxes, yes_no_question
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context
from pipelines.runtime.images import batches_of_equal_size, read_readable
from pipelines.runtime.open_detector import open_detector

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Mining:
    """How candidates are looked at."""

    detector: str
    """Id of the detector whose predictions count."""
    config: MiningConfig
    categories: Mapping[str, str]
    """By image id."""
    upright: Collection[str]
    """Categories whose images are not mirrored for test-time variance."""
    batch: int
    """Images per batch of the second detector's predictions."""


def find_candidates(
    context: Context, images: Sequence[Image], mining: Mining, unreadable: list[str] | None = None
) -> list[MiningCandidate]:
    """Those of the images that the detector predicted, with the figures that the configuration weighs.

    Images whose files cannot be read are named in `unreadable` and omitted; without that list they raise.
    """
    features_of = _pixel_features(context, images, mining, unreadable)
    known = [image for image in images if image.id in features_of]
    with context.workspace.catalog(read_only=True) as catalog:
        found = catalog.predictions.of(mining.detector, [image.id for image in known])
    disagreements = measure_disagreement(context, known, mining)
    return [
        MiningCandidate(
            image_id=prediction.image_id,
            category=mining.categories.get(prediction.image_id, ""),
            confidence=prediction.max,
            uncertainty=prediction.uncertainty,
            variance=features_of[prediction.image_id].variance,
            disagreement=disagreements.get(prediction.image_id, 0.0),
            features=features_of[prediction.image_id].features,
            thumbnail=features_of[prediction.image_id].thumbnail,
        )
        for prediction in found
    ]


def at_operating_point(context: Context, config: MiningConfig, detector: str) -> MiningConfig:
    """The settings with the detector's own threshold, unless they name one."""
    if config.threshold is not None:
        return config
    with context.workspace.catalog(read_only=True) as catalog:
        threshold = threshold_of(catalog.detectors.get(detector))
    return config.model_copy(update={"threshold": threshold})


def queue_items(choices: Sequence[Choice], round_id: str, detector: str) -> list[QueueItem]:
    """The choices as items of the queue, with mining's priorities and reasons, and the id of the detector
    whose maps sent them there."""
    return [
        QueueItem(
            image_id=choice.image_id,
            round_id=round_id,
            priority=choice.priority,
            reason=choice.reason,
            detector_id=detector,
        )
        for choice in choices
    ]


@dataclass(frozen=True, slots=True)
class PixelFeatures:
    """Features of a candidate's pixels."""

    thumbnail: np.ndarray
    features: np.ndarray
    variance: float


def _pixel_features(
    context: Context, images: Sequence[Image], mining: Mining, unreadable: list[str] | None
) -> dict[str, PixelFeatures]:
    """Thumbnails of all candidates; the detector is loaded only if the configuration needs it."""
    config = mining.config
    detector = None
    if config.features == "encoder" or config.variance > 0:
        detector = open_detector(context, mining.detector)
    features_of: dict[str, PixelFeatures] = {}
    done = 0
    for group in batches_of_equal_size(images, BATCH):
        context.report(done, len(images), "comparing candidates")
        done += len(group)
        readable, read = read_readable(context.workspace, group, unreadable)
        if not readable:
            continue
        pixels = np.stack(read)
        thumbnails = features = thumbnail_features(pixels)
        variances = [0.0] * len(readable)
        if detector is not None and config.features == "encoder":
            features = context.models.encoder_features(detector, list(pixels), BATCH)
        if detector is not None and config.variance > 0:
            from dataengine.diagnosis.uncertainty import view_variance

            flips = [mining.categories.get(image.id) not in mining.upright for image in readable]
            variances = view_variance(detector, list(pixels), flips, BATCH)
        for image, *values in zip(readable, thumbnails, features, variances, strict=True):
            features_of[image.id] = PixelFeatures(*values)
    return features_of


def measure_disagreement(context: Context, images: Sequence[Image], mining: Mining) -> dict[str, float]:
    """Mean difference of each image's map to the second detector's, or of both verdicts on the whole image
    where that gives no map; empty when it has no weight or there is no second detector."""
    if mining.config.disagreement == 0:
        return {}
    with context.workspace.catalog(read_only=True) as catalog:
        known = {found.id: found for found in catalog.detectors.list()}
    others = [
        name
        for name, found in known.items()
        if name != mining.detector
        and found.removed is None
        and not training_free.regenerates(found)
        and not yes_no_question.is_question(found)
        and not vlm_boxes.is_boxes(found)
    ]
    second = mining.config.second_detector or (others[-1] if others else "")
    if not second:
        return {}
    if training_free.regenerates(known.get(second)):
        images = score_dynamics.redrawable_images(images, known[second])
    others_found = {
        one.image_id: one for one in predict(context, second, images, mining.batch, unreadable=[])
    }
    images = [image for image in images if image.id in others_found]
    pairs = [
        (one, others_found[one.image_id]) for one in predict(context, mining.detector, images, mining.batch)
    ]
    if yes_no_question.is_question(known.get(second)):
        return {one.image_id: abs(one.max - other.max) for one, other in pairs}
    maps = context.workspace.maps
    return {
        one.image_id: float(
            np.abs(dequantise(maps.get(one.map_ref)) - dequantise(maps.get(other.map_ref))).mean()
        )
        for one, other in pairs
        if one.map_ref and other.map_ref
    }
