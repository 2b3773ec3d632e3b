"""Pseudo-labels: a detector's maps become labels of images that people leave alone (DiffDoctor, Sec. 3.2)."""

from collections.abc import Sequence

from dataengine.records import Image, PseudoLabel, threshold_of
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context, Result
from pipelines.runtime.failpoint import fail_point
from pipelines.selections.diagnose import unreadable_images


def pseudo_label(
    context: Context, teacher: str, images: Sequence[Image], round_id: str, batch: int
) -> Result:
    """Store the teacher's map of each image as its pseudo-label: how many, and how many are flawed.

    Images whose files cannot be read are named in the result and get none.
    """
    unreadable: list[str] = []
    labels = [
        PseudoLabel(
            image_id=found.image_id,
            detector_id=teacher,
            round_id=round_id,
            map_ref=found.map_ref or "",
            max=found.max,
        )
        for found in predict(context, teacher, images, batch, unreadable)
    ]
    fail_point("pseudo_label:predicted")
    with context.workspace.catalog() as catalog:
        threshold = threshold_of(catalog.detectors.get(teacher))
        catalog.pseudo_labels.add_many(labels)
        catalog.commit()
    return {
        "images": len(labels),
        "flawed": sum(label.max >= threshold for label in labels),
        **unreadable_images(unreadable),
    }


def without_people(context: Context, images: Sequence[Image]) -> list[Image]:
    """The training images that no person labelled and none was asked to: a mined image is one that the
    detector finds hard, so its own map is no label of it, answered or not."""
    free = [image for image in images if image.split == "train"]
    ids = [image.id for image in free]
    with context.workspace.catalog(read_only=True) as catalog:
        taken = {label.image_id for label in catalog.labels.of_images(ids)} | catalog.queue.among(ids)
    return [image for image in free if image.id not in taken]
