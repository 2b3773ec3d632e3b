"""Score dynamics as a detector: without weights, it looks at images by drawing them once more.

Input: images that a registered generator drew, with prompt, seed and settings. Output: artifact maps, kept as
predictions of a detector version that stands for the settings; the share of abnormal places at each step,
kept with that version; and, for one image, its dynamics at a point. Cost: sampling as far as the window goes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused
from dataengine.masks import dequantise
from dataengine.records import DetectorVersion, Image, SnapshotItem
from dataengine.treatment.config import SamplingConfig
from pipelines import weightless
from pipelines.charts import Line, chart
from pipelines.context import Context, Result
from pipelines.generate import open_generator
from pipelines.samples import StoredSamples
from pipelines.steering import FIELDS, Steered, steered
from pipelines.steps import slices
from storage.workspace import Workspace

KIND = "score dynamics"
FOLDER = "dynamics"
"""Where pictures lie in the workspace; also what a version's config calls its settings."""
THRESHOLD = 0.5

Looked = Iterator[tuple[list[Image], list[np.ndarray]]]


def identity(config: DynamicsConfig) -> str:
    """Id of the detector version that stands for these settings, known before it is registered."""
    return weightless.identity(KIND, config)


def detector_for(workspace: Workspace, config: DynamicsConfig) -> DetectorVersion:
    """The detector version that stands for these settings; registered when it is first asked for."""
    name = KIND if config == DynamicsConfig() else f"{KIND} {identity(config)[:6]}"
    return weightless.version_of(workspace, KIND, FOLDER, config, name)


def watches(version: DetectorVersion | None) -> bool:
    """Whether the version is score dynamics, which has no weights to open."""
    return version is not None and version.config.get("kind") == KIND


def drawn_here(images: Sequence[Image]) -> list[Image]:
    """Those that a registered generator drew, so that it can draw them again."""
    return [image for image in images if _can_be_drawn(image)]


def _can_be_drawn(image: Image) -> bool:
    return image.generator_id is not None and image.seed is not None and "steps" in image.settings


def watched(context: Context, version: DetectorVersion, images: Sequence[Image], batch: int) -> Looked:
    """Batches of the images with their maps, float32 HW.

    Raises `ConfigRefused` for images that nothing here can draw again, and for too few steps.
    """
    from dataengine.treatment.trajectory import map_of

    strange = len(images) - len(drawn_here(images))
    if strange:
        raise ConfigRefused(
            f"{strange} of {len(images)} images were not drawn by a generator of this workspace, and score "
            "dynamics look at images while they are drawn; give these to a trained detector"
        )
    camera = Camera(context, DynamicsConfig.model_validate(version.config["dynamics"]))
    for alike in _alike(images):
        for start, stop in slices(len(alike), batch):
            group = alike[start:stop]
            found, levels = camera.watch(group)
            _remember(context, version.id, group, found, levels)
            sizes = [(image.height, image.width) for image in group]
            yield group, [map_of(each, size) for each, size in zip(found, sizes, strict=True)]


def _alike(images: Sequence[Image]) -> Iterator[list[Image]]:
    """Images of one generator with the same settings and size."""

    def key(image: Image) -> str:
        return json.dumps([image.generator_id, image.height, image.width, image.settings], sort_keys=True)

    return (list(group) for _, group in groupby(sorted(images, key=key), key))


class Camera:
    """Watches images being drawn once more; what draws and steers them stays open until another is needed."""

    def __init__(self, context: Context, config: DynamicsConfig) -> None:
        self._context = context
        self._config = config
        self._open: tuple[str, Any, Any] = ("", None, None)

    def watch(self, images: Sequence[Image]) -> tuple[list[Any], list[float]]:
        """Dynamics of images of one generator with the same settings, and the window's shares of the way."""
        from dataengine.treatment.trajectory import watch

        first = images[0]
        family, steering = self._opened(first)
        sampling = {name: value for name, value in first.settings.items() if name not in FIELDS}
        sampling |= {"batch": len(images), "height": first.height, "width": first.width}
        settings = SamplingConfig.model_validate(sampling)
        prompts, seeds = [image.prompt for image in images], [int(image.seed or 0) for image in images]
        steppers = steering.steppers(prompts, seeds)
        return watch(family, prompts, seeds, settings, self._config, steppers, self._context.report)

    def _opened(self, image: Image) -> tuple[Any, Steered]:
        wanted = {name: image.settings.get(name) for name in FIELDS}
        key = json.dumps([image.generator_id, wanted], sort_keys=True)
        if self._open[0] != key:
            with self._context.workspace.catalog(read_only=True) as catalog:
                generator = catalog.generators.get(str(image.generator_id))
            family = open_generator(self._context, generator)
            self._open = (key, family, steered(self._context, wanted, family))
        return self._open[1], self._open[2]


def _remember(
    context: Context, detector_id: str, images: Sequence[Image], found: Sequence[Any], levels: list[float]
) -> None:
    """Add to the share of abnormal places at each step, by generator and number of steps (Fig. 7)."""
    from dataengine.diagnosis.dynamics import abnormal_shares

    first = images[0]
    name = f"{first.generator_id}, {first.settings['steps']} steps"
    shares = abnormal_shares(found)
    with context.workspace.catalog() as catalog:
        kept = dict(catalog.detectors.get(detector_id).metrics.get("abnormal", {}))
        before = kept.get(name, {"images": 0, "shares": [0.0] * len(shares)})
        count = before["images"] + len(found)
        mixed = (np.array(before["shares"]) * before["images"] + shares * len(found)) / count
        kept[name] = {"images": count, "levels": levels[1:], "shares": mixed.tolist()}
        catalog.detectors.record_metrics(detector_id, {"abnormal": kept})
        catalog.commit()


def measured(
    context: Context, detector_id: str, sets: Mapping[str, Sequence[SnapshotItem]], batch: int
) -> dict[str, Any]:
    """The figures of `evaluate.measure`, on those images of each set that were drawn here."""
    from dataengine.diagnosis.metrics import image_metrics, summarise
    from pipelines.diagnose import predict

    figures = {}
    for name, items in sets.items():
        with context.workspace.catalog(read_only=True) as catalog:
            known = catalog.images.get_many([item.image_id for item in items])
        drawn = {image.id: image for image in drawn_here(known)}
        chosen = [item for item in items if item.image_id in drawn]
        if not chosen:
            continue
        samples = StoredSamples(context.workspace, chosen)
        looked = predict(context, detector_id, [drawn[item.image_id] for item in chosen], batch)
        rows = []
        for index, prediction in enumerate(looked):
            sample, seen = samples.sample(index), context.workspace.maps.get(str(prediction.map_ref))
            rows.append(
                image_metrics(
                    sample.target, dequantise(seen), sample.category or "", THRESHOLD, sample.label_map
                )
            )
        figures[name] = asdict(summarise(rows))
    return figures


def at_point(
    context: Context, image_id: str, point: tuple[int, int], config: DynamicsConfig | None = None
) -> Result:
    """Dynamics of an image at (x, y) beside its median, drawn as `dynamics/IMAGE-X-Y.svg` (Fig. 4).

    Raises `ConfigRefused` for an image that cannot be drawn again and for a point outside.
    """
    from dataengine.diagnosis.dynamics import at_point as dynamics_at

    with context.workspace.catalog(read_only=True) as catalog:
        image = catalog.images.get(image_id)
    if not _can_be_drawn(image):
        raise ConfigRefused(f"image {image_id} was not drawn by a generator of this workspace")
    found, levels = Camera(context, config or DynamicsConfig()).watch([image])
    here, median = dynamics_at(found[0], point, (image.height, image.width))
    lines = [
        Line(f"at {point[0]}, {point[1]}", levels[1:], here.tolist()),
        Line("median of the image", levels[1:], median.tolist()),
    ]
    picture = chart(lines, "from noise (1) to image (0)", "change of the prediction", falling=True)
    return {
        "image": image_id,
        "point": list(point),
        "levels": levels[1:],
        "here": here.tolist(),
        "median": median.tolist(),
        "picture": str(_written(context.workspace, f"{image_id}-{point[0]}-{point[1]}.svg", picture)),
    }


def abnormal_chart(workspace: Workspace, detector_id: str) -> Path:
    """The share of abnormal places at each step, as `dynamics/DETECTOR.svg` (Fig. 7).

    Raises `ConfigRefused` while nothing was watched.
    """
    with workspace.catalog(read_only=True) as catalog:
        kept = catalog.detectors.get(detector_id).metrics.get("abnormal", {})
        names = {found.id: found.name for found in catalog.generators.list()}
    if not kept:
        raise ConfigRefused("score dynamics have looked at no image yet; run `clinic dynamics`")
    lines = []
    for label, each in kept.items():
        generator, _, rest = label.partition(", ")
        lines.append(Line(f"{names.get(generator, generator)}, {rest}", each["levels"], each["shares"]))
    picture = chart(lines, "from noise (1) to image (0)", "share of abnormal places", falling=True)
    return _written(workspace, f"{detector_id}.svg", picture)


def _written(workspace: Workspace, name: str, picture: str) -> Path:
    path = workspace.path / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(picture)
    return path
