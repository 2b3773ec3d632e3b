"""Boxes of a vision-language model as a detector (SDG): where, what, why, and importance, behind an endpoint.

Input: images, an OpenAI-compatible endpoint. Output: artifact maps, stored as predictions of a detector
version that stands for the model and the request. Cost: one request for each image, a second one where the
first answer cannot be read; an image without a usable answer is refused, and never counts as clean.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from dataengine.bounds import config_bytes
from dataengine.curation.config import BoxesConfig
from dataengine.errors import ImageRefused, ModelRefused
from dataengine.records import DetectorVersion, Image
from pipelines.detectors import training_free
from pipelines.runtime.context import Context
from pipelines.runtime.images import read_readable, unreadable_name
from pipelines.runtime.models import BOXES_FILE
from pipelines.runtime.open_detector import open_detector
from storage.workspace import Workspace

KIND = "VLM boxes"
FIELD = "boxes"


def boxes_id(config: BoxesConfig) -> str:
    """Id of the detector version that stands for model and request, known before it is registered."""
    return training_free.settings_id(KIND, config)


def get_or_register_detector(workspace: Workspace, config: BoxesConfig, name: str = "") -> DetectorVersion:
    """The detector version that stands for model and request, registered on first use."""
    model = config.model.rpartition("#")[2].rstrip("/").rpartition("/")[2]
    return training_free.get_or_register_version(
        workspace, KIND, FIELD, config, name.strip() or f"boxes by {model}", licence="that of the model"
    )


def is_boxes(version: DetectorVersion | None) -> bool:
    """Whether the version asks a model for boxes; it has maps, but neither weights nor a gradient."""
    return version is not None and version.config.get("kind") == KIND


def settings_in(path: Path) -> BoxesConfig | None:
    """The settings in a folder with `BOXES_FILE`; None for another path. Raises `ModelRefused`."""
    file = path / BOXES_FILE
    if not file.is_file():
        return None
    try:
        return BoxesConfig.model_validate_json(config_bytes(file))
    except ValidationError as error:
        raise ModelRefused(f"{file} holds no settings of boxes: {error.errors()[0]['msg']}") from None


def iter_box_maps(
    context: Context,
    version: DetectorVersion,
    images: Sequence[Image],
    batch: int,
    unreadable: list[str] | None = None,
) -> Iterator[tuple[list[Image], list[np.ndarray]]]:
    """The images with their maps, float32 HW, one by one, so that nothing answered is lost when the endpoint
    stops. An image without a usable answer is named in `unreadable`; without that list it raises."""
    detector = open_detector(context, version.id)
    for image in images:
        readable, pixels = read_readable(context.workspace, [image], unreadable)
        if not readable:
            continue
        try:
            yield readable, context.models.artifact_maps(detector, pixels, 1)
        except ImageRefused as error:
            if unreadable is None:
                raise
            unreadable.append(unreadable_name(image, error))
