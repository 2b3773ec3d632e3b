"""Initial data of a demo workspace: the clinic's models, artifact-free images, earlier labels, a benchmark.

Input: an empty workspace. Output: generator "tiny-flux", champion "first-doctor", artifact-free images of all
splits, some of the champion's own training data, and a benchmark with exact ground truth. Cost: about half a
minute. Idempotent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataengine.clinic.config import FIRST_POINT
from dataengine.clinic.flaws import SHAPE_DISTORTION
from dataengine.clinic.world import HARD, Drawing, Stream, stream
from dataengine.images import encode_png, thumbnail
from dataengine.masks import PackedMap
from dataengine.records import (
    CLINIC,
    CLINIC_GENERATOR,
    CLINIC_ORIGIN,
    DetectorVersion,
    GeneratorVersion,
    Image,
    Label,
    OperatingPoint,
    Report,
    Source,
    Split,
    digest,
    image_id,
    no_report,
    split_of,
)
from pipelines.config import DemoDataConfig
from pipelines.generators.files import share_folder
from pipelines.runtime.context import Context, Result
from pipelines.services.benchmarks import freeze_known
from storage.workspace import Workspace

if TYPE_CHECKING:
    from dataengine.diagnosis.detector import Detector

GENERATOR, CHAMPION, AUTHOR = CLINIC_GENERATOR, "first-doctor", "clinic"
LICENCE = "Apache-2.0"
FLAWED = 0.37
"""Fraction of broken images that the judge finds in the tiny FLUX's hard categories."""

VALIDATION = 400
SIZES = {"cpu-smoke": DemoDataConfig(clean=60, previous=20, validation=12, benchmark=24, benchmark_clean=12)}
"""Amount of initial data by recipe, where it differs from the default."""


def prepare(workspace: Workspace, config: DemoDataConfig | None = None, report: Report = no_report) -> None:
    """Register the models and import the images."""
    config = config or DemoDataConfig()
    report(0, 4, "registering the generator and the first detector")
    register_models(workspace)
    report(1, 4, "importing artifact-free images and the first detector's training data")
    clean = [(i, stream("photos")[i]) for i in range(config.clean)]
    ingest(workspace, "photos", clean, "real", None)
    ingest(workspace, "previous", enumerate(earlier_data(config.previous)), "drawn", "train")
    validation = hard_drawings("validation", config.validation)
    ingest(workspace, "validation", enumerate(validation), "drawn", "validation")
    report(2, 4, "importing the benchmark")
    benchmark = stream("benchmark", flawed=0.0)
    flawed = hard_drawings("benchmark", config.benchmark)
    ingest(workspace, "benchmark", enumerate(flawed), "drawn", "benchmark")
    start = config.benchmark
    intact = [(i, benchmark[i]) for i in range(start, start + config.benchmark_clean)]
    ingest(workspace, "benchmark", intact, "real", "benchmark")
    freeze_known(workspace, "demo", "the clinic's exact truth")
    report(4, 4, "ready")


def prepare_job(context: Context, args: dict[str, Any]) -> Result:
    """Give an empty workspace the demo's models and images, as many as the recipe "cpu-smoke" needs."""
    prepare(context.workspace, SIZES["cpu-smoke"], context.report)
    with context.workspace.catalog(read_only=True) as catalog:
        return {"added": catalog.images.count()}


def register_models(workspace: Workspace) -> None:
    """Register the tiny FLUX, and the first detector as champion."""
    from dataengine.clinic.parts import materialise

    folder = materialise("flux", workspace.path / "models" / GENERATOR)
    detector = materialise("first_doctor", workspace.path / "models" / CHAMPION)
    checkpoint = workspace.checkpoints.publish(detector)
    with workspace.catalog() as catalog:
        catalog.generators.add(
            GeneratorVersion(
                id=GENERATOR,
                name="tiny FLUX",
                location=str(folder),
                licence=LICENCE,
                settings=share_folder(workspace, folder),
            )
        )
        catalog.detectors.add(
            DetectorVersion(
                id=CHAMPION,
                name="first detector",
                checkpoint=checkpoint,
                licence=LICENCE,
                operating_point=FIRST_POINT,
                domain=CLINIC,
            )
        )
        if catalog.detectors.champion() is None:
            catalog.detectors.promote(CHAMPION, "demo", "shipped with the embedded clinic")
        catalog.commit()


def ingest(
    workspace: Workspace,
    use: str,
    drawings: Iterable[tuple[int, Drawing]],
    source: Source,
    split: Split | None,
) -> None:
    """Store images with their captions; those of source "drawn" with their exact truth as imported labels.

    Without `split`, each image's group decides between training and validation.
    """
    chosen = list(drawings)
    hashes = workspace.blobs.put_many([encode_png(drawing.image) for _, drawing in chosen])
    smalls = workspace.blobs.put_many([thumbnail(drawing.image) for _, drawing in chosen])
    images = [
        _image(use, index, drawing, sha256, small, source, split)
        for (index, drawing), sha256, small in zip(chosen, hashes, smalls, strict=True)
    ]
    labels = _labels(workspace, images, [drawing for _, drawing in chosen]) if source == "drawn" else []
    with workspace.catalog() as catalog:
        catalog.images.add_many(images)
        known = {label.image_id for label in catalog.labels.of_images([image.id for image in images])}
        for label in labels:
            if label.image_id not in known:
                catalog.labels.submit(label)
        catalog.commit()


def hard_stream(use: str) -> Stream:
    """A use's images of hard categories, flawed as often as the generator's."""
    return stream(use, flawed=FLAWED, categories=HARD)


def hard_drawings(use: str, count: int) -> list[Drawing]:
    """The first `count` images of `hard_stream`, through the decoder."""
    drawings = hard_stream(use)
    return round_trip([drawings[index] for index in range(count)]) if count else []


def choose_first_point(detector: "Detector") -> OperatingPoint:
    """The operating point of a detector on the clinic's validation images, which are like the benchmark's."""
    from dataengine.diagnosis.dataset import MemorySamples, Sample
    from dataengine.diagnosis.evaluation import find_operating_point

    samples = [
        Sample(image=one.image, target=(one.label_map > 0).astype(np.float32), kind="true")
        for one in hard_drawings("validation", VALIDATION)
    ]
    return find_operating_point(detector, MemorySamples(samples))


def earlier_data(count: int) -> list[Drawing]:
    """Some of the first detector's training data, with the labels of earlier annotators, errors included.

    Flaws keep their true class; what was marked by mistake counts as shape distortion.
    """
    import torch

    from dataengine.clinic.training.data import render
    from dataengine.clinic.training.first_detector import FLAWED_SHARES, previous_labels

    drawings = stream("previous", flawed=FLAWED_SHARES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        masks = previous_labels(render(drawings, range(count))).masks.numpy()
    marked = [
        replace(drawing, label_map=np.where(mask, np.maximum(drawing.label_map, SHAPE_DISTORTION), 0))
        for drawing, mask in zip((drawings[i] for i in range(count)), masks, strict=True)
    ]
    return round_trip(marked) if marked else []


def round_trip(drawings: Sequence[Drawing]) -> list[Drawing]:
    """The images passed through the generator's autoencoder; flaws stay where they were."""
    import torch

    from dataengine.clinic.parts import autoencoder
    from dataengine.clinic.training.data import round_trip

    pixels = torch.from_numpy(np.stack([drawing.image for drawing in drawings])).permute(0, 3, 1, 2)
    painted = round_trip(autoencoder(), pixels).permute(0, 2, 3, 1).numpy()
    return [replace(drawing, image=image) for drawing, image in zip(drawings, painted, strict=True)]


def oracle_folder(workspace: Workspace, name: str) -> Path:
    """The folder of an oracle's weights, outside of everything that stages read."""
    from dataengine.clinic.parts import materialise

    return materialise(name, workspace.path / "oracles" / name)


def _image(
    use: str, index: int, drawing: Drawing, sha256: str, small: str, source: Source, split: Split | None
) -> Image:
    group = digest("clinic", use, index)
    return Image(
        id=image_id(sha256, None, drawing.caption, index),
        sha256=sha256,
        height=drawing.image.shape[0],
        width=drawing.image.shape[1],
        prompt=drawing.caption,
        category=drawing.category,
        seed=index,
        source=source,
        origin=f"{CLINIC_ORIGIN}, stream {use}, index {index}",
        licence=LICENCE,
        split=split or split_of(group, 0.2),
        group=group,
        thumbnail=small,
    )


def _labels(workspace: Workspace, images: Sequence[Image], drawings: Sequence[Drawing]) -> list[Label]:
    maps = [PackedMap.of(drawing.label_map) for drawing in drawings]
    stored = workspace.blobs.put_many([packed.data for packed in maps])
    with workspace.catalog() as catalog:
        catalog.label_map_statistics.add_many(zip(stored, maps, strict=True))
        catalog.commit()
    return [
        Label(
            image_id=image.id,
            author=AUTHOR,
            height=image.height,
            width=image.width,
            label_map=blob if packed.areas else None,
            clean=not packed.areas,
            source="import",
        )
        for image, packed, blob in zip(images, maps, stored, strict=True)
    ]
