"""Train a flaw highlighter: a classifier of real and generated images, whose activation maps mark flaws.

Input: artifact-free real training images, and a round's generated training images of the same size. Output: a
detector version whose maps are flaw activation maps. Cost: epochs × images through VGG16.
"""

import tempfile
from collections import Counter
from pathlib import Path

from dataengine.diagnosis.config import HighlighterConfig
from dataengine.errors import ConfigRefused
from dataengine.records import DetectorVersion, Image, digest
from dataengine.records.images import HARD, SURVEY
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_stacked
from pipelines.runtime.round_data import images_of

KIND = "flaw highlighter"


def register_highlighter(
    context: Context, round_id: str, config: HighlighterConfig, limit: int
) -> DetectorVersion:
    """Train on at most `limit` real and `limit` generated images, and register the result.

    Raises `ConfigRefused` if there are too few of one size.
    """
    from dataengine.diagnosis.flaw_activation import train_highlighter

    generated = [
        image
        for image in images_of(context, round_id, SURVEY, HARD)
        if image.split == "train" and image.source == "generated"
    ]
    with context.workspace.catalog(read_only=True) as catalog:
        real = catalog.images.find(source="real", split="train", status="active")
    size = _shared_size(real, generated)
    real_pixels, generated_pixels = (
        read_stacked(context.workspace, [image for image in images if _size(image) == size][:limit])
        for images in (real, generated)
    )
    network, accuracy = train_highlighter(config, real_pixels, generated_pixels, context.report)
    with tempfile.TemporaryDirectory() as folder:
        network.save(Path(folder))
        checkpoint = context.workspace.checkpoints.publish(Path(folder))
    training = {"accuracy": accuracy, "real": len(real_pixels), "generated": len(generated_pixels)}
    version = DetectorVersion(
        id=digest(KIND, checkpoint),
        name=config.name,
        checkpoint=checkpoint,
        config={"kind": KIND, "highlighter": config.model_dump(mode="json")},
        metrics={"training": training},
        round_id=round_id,
    )
    with context.workspace.catalog() as catalog:
        catalog.detectors.add(version)
        catalog.commit()
        return catalog.detectors.get(version.id)


def _size(image: Image) -> tuple[int, int]:
    return image.height, image.width


def _shared_size(real: list[Image], generated: list[Image]) -> tuple[int, int]:
    """The most common size shared by both kinds. Raises `ConfigRefused` if there is none."""
    counts = [Counter(map(_size, images)) for images in (real, generated)]
    shared = counts[0] & counts[1]
    if not shared:
        raise ConfigRefused(
            f"{len(real)} real and {len(generated)} generated training images share no size; import real "
            "images of the generator's size"
        )
    return shared.most_common(1)[0][0]
