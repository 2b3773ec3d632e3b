"""Stored pictures and label maps as arrays."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps

from dataengine.errors import ImageRefused
from dataengine.masks import MAX_PIXELS, LabelMap, unpack_label_map
from dataengine.records import Label
from storage.workspace import Workspace

Pixels = NDArray[np.uint8]


def decode(data: bytes) -> Pixels:
    """A stored picture as uint8 HWC RGB, as a viewer shows it. Raises `ImageRefused`."""
    try:
        with Picture.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageRefused(f"a picture of {picture.height}×{picture.width} is too large to show")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, Picture.DecompressionBombError) as error:
        raise ImageRefused(f"a stored picture cannot be shown ({error})") from None


def label_map(workspace: Workspace, label: Label) -> LabelMap:
    """A label's map, uint8 HW; all zero for a clean image."""
    if label.label_map is None:
        return np.zeros((label.height, label.width), np.uint8)
    return unpack_label_map(workspace.blobs.get(label.label_map), label.height, label.width)
