"""Pictures for the desks: an image beside its artifact map, labels drawn over, before beside after."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageOps

from dataengine.errors import ImageRefused
from dataengine.masks import MAX_PIXELS, LabelMap, unpack_label_map
from dataengine.records import Label
from storage.workspace import Workspace

Pixels = NDArray[np.uint8]

TILE = 176
GAP = 4
RAMP_AT = np.array([0.0, 0.35, 0.7, 1.0])
RAMP = np.array([[22, 18, 60], [142, 32, 110], [240, 90, 60], [255, 226, 120]], dtype=np.float32)


def decode(data: bytes) -> Pixels:
    """A stored picture as uint8 HWC RGB, as a viewer shows it. Raises `ImageRefused`."""
    try:
        with Picture.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageRefused(f"a picture of {picture.height}×{picture.width} is too large to show")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, Picture.DecompressionBombError) as error:
        raise ImageRefused(f"a stored picture cannot be shown ({error})") from None


def resized(image: Pixels, height: int, width: int) -> Pixels:
    """The image at that size: crisp when it grows, smooth when it shrinks."""
    grows = height >= image.shape[0]
    way = Picture.Resampling.NEAREST if grows else Picture.Resampling.LANCZOS
    return np.asarray(Picture.fromarray(image).resize((width, height), way))


def at_height(image: Pixels, height: int) -> Pixels:
    """The image scaled to `height`, its proportions kept (at most 3:1)."""
    width = max(1, min(3 * height, round(image.shape[1] * height / image.shape[0])))
    return resized(image, height, width)


def heat(image: Pixels, confidence: NDArray[np.uint8]) -> Pixels:
    """The image dark and grey, the 8-bit confidence map glowing on it."""
    height, width = image.shape[:2]
    way = Picture.Resampling.BILINEAR
    scaled = np.asarray(Picture.fromarray(confidence).resize((width, height), way)).astype(np.float32) / 255
    grey = (image @ np.array([0.299, 0.587, 0.114], dtype=np.float32) * 0.45)[..., None]
    glow = np.stack([np.interp(scaled, RAMP_AT, RAMP[:, channel]) for channel in range(3)], axis=2)
    weight = np.clip(1.6 * scaled, 0, 1)[..., None]
    return np.rint(grey * (1 - weight) + glow * weight).astype(np.uint8)


def strip(pictures: Sequence[Pixels], height: int = TILE) -> Pixels:
    """Pictures side by side at one height with a thin grey gap."""
    gap = np.full((height, GAP, 3), 128, np.uint8)
    parts = [part for picture in pictures for part in (gap, at_height(picture, height))]
    return np.concatenate(parts[1:], axis=1)


def label_map(workspace: Workspace, label: Label) -> LabelMap:
    """A label's map, uint8 HW; all zero for a clean image."""
    if label.label_map is None:
        return np.zeros((label.height, label.width), np.uint8)
    return unpack_label_map(workspace.blobs.get(label.label_map), label.height, label.width)
