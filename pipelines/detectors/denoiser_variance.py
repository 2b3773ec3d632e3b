"""BayesDiff as a detector: artifact maps from the uncertainty of a generator's last layer.

Input: real training images, to which the posterior of one generator's last layer is fitted once; and images
that this generator made, which are regenerated. Output: a detector version that holds the posterior, and
artifact maps, stored as its predictions. Cost: one prediction for each real image; then sampling each image
with as many further predictions at each step as there are samples.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dataengine.diagnosis.config import BayesDiffConfig
from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Image, digest
from pipelines.detectors.score_dynamics import (
    can_be_redrawn,
    group_by_settings,
    open_generator_of,
    sampling_of,
)
from pipelines.detectors.training_free import DENOISER_VARIANCE as KIND
from pipelines.generators.draw import open_generator
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_pixels
from pipelines.runtime.models import VARIANCE_FILE
from pipelines.runtime.shards import shard_bounds

FIELD = "bayesdiff"
"""Key of the settings in a version's config."""


def variance_id(config: BayesDiffConfig, generator_id: str) -> str:
    """Id of the detector version of these settings and generator, known before it is registered."""
    return digest(KIND, generator_id, json.dumps(config.model_dump(mode="json"), sort_keys=True))


def get_or_register_detector(context: Context, config: BayesDiffConfig, generator_id: str) -> DetectorVersion:
    """The detector version of these settings and generator; its posterior is fitted on first use.

    Raises `ConfigRefused` without real training images, and for a denoiser without a last layer.
    """
    from dataengine.treatment.sampling.bayesdiff import fit_posterior
    from dataengine.treatment.sampling.sampler import as_uint8, crop_and_resize

    workspace, detector_id = context.workspace, variance_id(config, generator_id)
    with workspace.catalog(read_only=True) as catalog:
        known = [version for version in catalog.detectors.list() if version.id == detector_id]
        generator = catalog.generators.get(generator_id)
        real = catalog.images.find(source="real", split="train", status="active", limit=config.images)
    if known:
        return known[0]
    if not real:
        raise ConfigRefused(
            "this workspace has no real training images, to which BayesDiff fits the generator's last layer; "
            "import some with `clinic import FOLDER --source real`"
        )
    family = open_generator(context, generator)
    pixels = [as_uint8(crop_and_resize(read_pixels(workspace, image), family.size))[0] for image in real]
    posterior = fit_posterior(
        family, np.stack(pixels), [image.prompt for image in real], config, context.report
    )
    values = config.model_dump(mode="json")
    with tempfile.TemporaryDirectory() as folder:
        posterior.save(Path(folder))
        (Path(folder) / VARIANCE_FILE).write_text(json.dumps(values, indent=2) + "\n")
        checkpoint = workspace.checkpoints.publish(Path(folder))
    version = DetectorVersion(
        id=detector_id,
        name=f"{KIND} of {generator.name}",
        checkpoint=checkpoint,
        config={"kind": KIND, FIELD: values, "generator": generator_id},
        metrics={"training": {"real": len(real), "layer": posterior.layer}},
        licence="none needed",
    )
    with workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
        return catalog.detectors.get(detector_id)


def iter_variance_maps(
    context: Context, version: DetectorVersion, images: Sequence[Image], batch: int
) -> Iterator[tuple[list[Image], list[np.ndarray]]]:
    """Batches of the images with their maps, float32 HW.

    Raises `ConfigRefused` for images of another generator, or that cannot be regenerated.
    """
    from dataengine.diagnosis.dynamics import upsample_map
    from dataengine.treatment.sampling.bayesdiff import Posterior, variance_confidence, watch_variance

    generator_id, config = version.config["generator"], BayesDiffConfig.model_validate(version.config[FIELD])
    foreign = sum(not can_be_redrawn(image) or image.generator_id != generator_id for image in images)
    if foreign:
        raise ConfigRefused(
            f"{foreign} of {len(images)} images were not made by the generator that {version.name} is of, or "
            "cannot be regenerated; use a trained detector for them"
        )
    posterior = Posterior.load(context.workspace.checkpoints.fetch(version.checkpoint))
    for similar in group_by_settings(images):
        family, steering = open_generator_of(context, similar[0])
        for start, stop in shard_bounds(len(similar), batch):
            group = similar[start:stop]
            prompts, seeds = [image.prompt for image in group], [int(image.seed or 0) for image in group]
            variances = watch_variance(
                family,
                prompts,
                seeds,
                sampling_of(group),
                posterior,
                config,
                steering.steppers(prompts, seeds),
                context.report,
            )
            maps = [variance_confidence(each, config.deviations) for each in variances]
            sizes = [(image.height, image.width) for image in group]
            yield group, [np.ascontiguousarray(upsample_map(*each)) for each in zip(maps, sizes, strict=True)]
