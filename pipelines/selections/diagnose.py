"""Predict the artifact maps of images, and summarise what was predicted."""

from collections.abc import Sequence

from dataengine.records import Image, threshold_of
from pipelines.detectors.predict import predict
from pipelines.runtime.context import Context, Result
from pipelines.selections.domain import foreign_note
from storage.queries.domains import count_elsewhere

NAMED = 20
"""Most unreadable images that a result names."""


def diagnose(context: Context, detector_id: str, images: Sequence[Image], batch: int) -> Result:
    """Predict the images' maps, skipping those that have one: how many, and how many are flagged.

    Images whose files cannot be read are named in the result, and the others are predicted.
    """
    unreadable: list[str] = []
    predictions = predict(context, detector_id, images, batch, unreadable)
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
        foreign = count_elsewhere(catalog, (one.image_id for one in predictions)) if version.domain else 0
    threshold = threshold_of(version)
    return {
        "detector": detector_id,
        "images": len(predictions),
        "sum_max": sum(prediction.max for prediction in predictions),
        "suspected": sum(prediction.max >= threshold for prediction in predictions),
        "foreign": foreign,
        **unreadable_images(unreadable),
    }


def summarise(context: Context, detector_id: str, answers: Sequence[Result]) -> Result:
    """Mean of the images' highest confidence, how many reach the detector's threshold, and a note where it
    was made for images of another kind."""
    images = sum(answer["images"] for answer in answers)
    with context.workspace.catalog(read_only=True) as catalog:
        version = catalog.detectors.get(detector_id)
    note = foreign_note(version, sum(answer.get("foreign", 0) for answer in answers), images)
    return {
        "detector": detector_id,
        "images": images,
        "mean_max": sum(answer["sum_max"] for answer in answers) / max(images, 1),
        "suspected": sum(answer["suspected"] for answer in answers),
        **({"note": note} if note else {}),
        **sum_unreadable(answers),
    }


def unreadable_images(names: Sequence[str]) -> Result:
    """What a result says of images that could not be read: their number and the first of them; {} of none."""
    return {"unreadable": len(names), "unreadable_images": list(names[:NAMED])} if names else {}


def sum_unreadable(answers: Sequence[Result]) -> Result:
    """`unreadable_images` of several results together."""
    count = sum(answer.get("unreadable", 0) for answer in answers)
    names = [name for answer in answers for name in answer.get("unreadable_images", ())]
    return {"unreadable": count, "unreadable_images": names[:NAMED]} if count else {}
