"""Score dynamics as a detector: it has no weights, and predicts artifact maps by regenerating the images.

Input: images that a registered generator made, with prompt, seed and settings. Output: artifact maps, stored
as predictions of a detector version that stands for the settings; the share of abnormal positions at each
step, stored with that version; and, for one image, its dynamics at a point. Cost: sampling each image up to
the end of the window.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Image
from dataengine.treatment.config import SamplingConfig
from pipelines.detectors import training_free
from pipelines.generators.draw import open_generator
from pipelines.generators.guided_sampling import FIELDS, OpenSteering, open_steering
from pipelines.runtime.context import Context
from pipelines.runtime.shards import shard_bounds
from storage.workspace import Workspace

KIND = training_free.SCORE_DYNAMICS
FOLDER = "dynamics"
"""Folder of the charts in the workspace; also the key of the settings in a version's config."""
RULE = 2
"""Rule 1 differed from the authors' released code; maps by different rules never share a detector."""

MapBatches = Iterator[tuple[list[Image], list[np.ndarray]]]


def dynamics_id(config: DynamicsConfig) -> str:
    """Id of the detector version that stands for these settings, known before it is registered."""
    return training_free.settings_id(KIND, config, RULE)


def get_or_register_detector(workspace: Workspace, config: DynamicsConfig) -> DetectorVersion:
    """The detector version that stands for these settings, registered on first use."""
    name = KIND if config == DynamicsConfig() else f"{KIND} {dynamics_id(config)[:6]}"
    return training_free.get_or_register_version(workspace, KIND, FOLDER, config, name, rule=RULE)


def is_score_dynamics(version: DetectorVersion | None) -> bool:
    """Whether the version is score dynamics, which has no weights."""
    return version is not None and version.config.get("kind") == KIND


def redrawable_images(images: Sequence[Image], version: DetectorVersion | None = None) -> list[Image]:
    """Those images that a registered generator made and can regenerate; that of the version, if it is of
    one."""
    of = None if version is None else version.config.get("generator")
    return [image for image in images if can_be_redrawn(image) and of in (None, image.generator_id)]


def can_be_redrawn(image: Image) -> bool:
    """Whether regenerating the image gives the same one.

    Images that were corrected by the earlier rule, whose settings have no `reverse_step`, would differ.
    """
    made_here = image.generator_id is not None and image.seed is not None and "steps" in image.settings
    correction = image.settings.get("correction")
    return made_here and (not correction or "reverse_step" in correction)


def require_redrawable(image: Image) -> None:
    """Raises `ConfigRefused` for an image that regenerating would not give again."""
    if not can_be_redrawn(image):
        raise ConfigRefused(
            f"image {image.id} was not made by a generator of this workspace, or was corrected by an earlier "
            "rule, so that it cannot be regenerated"
        )


def iter_dynamics_maps(
    context: Context, version: DetectorVersion, images: Sequence[Image], batch: int
) -> MapBatches:
    """Batches of the images with their maps, float32 HW.

    Raises `ConfigRefused` for a version of an earlier rule, for images that cannot be regenerated here, and
    for too few steps.
    """
    from dataengine.treatment.sampling.trajectory import dynamics_map

    if version.config.get("rule", 1) != RULE:
        raise ConfigRefused(
            f"{version.name} ({version.id}) found its maps by an earlier rule, which is not continued; "
            "`clinic dynamics` registers today's, and mine.second_detector takes that one's id"
        )
    foreign = len(images) - len(redrawable_images(images))
    if foreign:
        raise ConfigRefused(
            f"{foreign} of {len(images)} images were not made by a generator of this workspace, or were "
            "corrected by an earlier rule, and score dynamics must regenerate images; use a trained detector "
            "for them"
        )
    replayer = TrajectoryReplayer(context, DynamicsConfig.model_validate(version.config["dynamics"]))
    for similar in group_by_settings(images):
        for start, stop in shard_bounds(len(similar), batch):
            group = similar[start:stop]
            dynamics, levels = replayer.watch(group)
            _record_abnormal_shares(context, version.id, group, dynamics, levels)
            sizes = [(image.height, image.width) for image in group]
            yield group, [dynamics_map(each, size) for each, size in zip(dynamics, sizes, strict=True)]


def group_by_settings(images: Sequence[Image]) -> Iterator[list[Image]]:
    """Group images by generator, settings and size."""

    def key(image: Image) -> str:
        return json.dumps([image.generator_id, image.height, image.width, image.settings], sort_keys=True)

    return (list(group) for _, group in groupby(sorted(images, key=key), key))


def open_generator_of(context: Context, image: Image) -> tuple[Any, OpenSteering]:
    """The generator that made the image, and the correction and guidance that it was made with."""
    with context.workspace.catalog(read_only=True) as catalog:
        generator = catalog.generators.get(str(image.generator_id))
    family = open_generator(context, generator)
    return family, open_steering(context, {name: image.settings.get(name) for name in FIELDS}, family)


def sampling_of(images: Sequence[Image]) -> SamplingConfig:
    """The sampling of images that were made with the same settings, as one batch."""
    first = images[0]
    sampling = {name: value for name, value in first.settings.items() if name not in FIELDS}
    sampling |= {"batch": len(images), "height": first.height, "width": first.width}
    return SamplingConfig.model_validate(sampling)


class TrajectoryReplayer:
    """Regenerates images and records their dynamics; caches the last generator and its guidance."""

    def __init__(self, context: Context, config: DynamicsConfig) -> None:
        self._context = context
        self._config = config
        self._open: tuple[str, Any, Any] = ("", None, None)

    def watch(self, images: Sequence[Image]) -> tuple[list[Any], list[float]]:
        """Dynamics of images of one generator with the same settings, and the noise levels of the window."""
        from dataengine.treatment.sampling.trajectory import watch_dynamics

        family, steering = self._opened(images[0])
        settings = sampling_of(images)
        prompts, seeds = [image.prompt for image in images], [int(image.seed or 0) for image in images]
        steppers = steering.steppers(prompts, seeds)
        return watch_dynamics(family, prompts, seeds, settings, self._config, steppers, self._context.report)

    def _opened(self, image: Image) -> tuple[Any, OpenSteering]:
        settings = {name: image.settings.get(name) for name in FIELDS}
        key = json.dumps([image.generator_id, settings], sort_keys=True)
        if self._open[0] != key:
            self._open = (key, *open_generator_of(self._context, image))
        return self._open[1], self._open[2]


def _record_abnormal_shares(
    context: Context, detector_id: str, images: Sequence[Image], dynamics: Sequence[Any], levels: list[float]
) -> None:
    """Update the mean share of abnormal positions at each step, by generator and number of steps (Fig. 7)."""
    from dataengine.diagnosis.dynamics import abnormal_shares

    first = images[0]
    name = f"{first.generator_id}, {first.settings['steps']} steps"
    shares = abnormal_shares(dynamics)
    with context.workspace.catalog() as catalog:
        abnormal = dict(catalog.detectors.get(detector_id).metrics.get("abnormal", {}))
        before = abnormal.get(name, {"images": 0, "shares": [0.0] * len(shares)})
        count = before["images"] + len(dynamics)
        mean = (np.array(before["shares"]) * before["images"] + shares * len(dynamics)) / count
        abnormal[name] = {"images": count, "levels": levels[1:], "shares": mean.tolist()}
        catalog.detectors.record_metrics(detector_id, {"abnormal": abnormal})
        catalog.commit()
