"""Figures of an image beyond its map: test-time variance and encoder features.

Images are uint8 HW3 arrays of any sizes; results keep their order.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataengine.diagnosis.detector import Detector, NetworkDetector, artifact_maps, as_images
from dataengine.errors import ConfigRefused

SHRUNK = 0.75
"""Side of the shrunk view, as a share of the image's side."""


@torch.no_grad()
def view_variance(
    detector: Detector, images: Sequence[np.ndarray], flips: Sequence[bool], batch: int = 16
) -> list[float]:
    """Test-time variance of each map, in [0, 1]: the mean over pixels of twice the standard deviation between
    views.

    Views are the image, the image shrunk to `SHRUNK` of its side with its edge repeated around it, and, where
    `flips` allows it (mirrored writing is an artifact), the image mirrored. Every view's map is transformed
    back before the comparison.
    """
    plain = artifact_maps(detector, images, batch)
    mirrored = artifact_maps(detector, [np.ascontiguousarray(image[:, ::-1]) for image in images], batch)
    smaller = artifact_maps(detector, [shrunk_view(image) for image in images], batch)
    variances = []
    for whole, turned, small, flip in zip(plain, mirrored, smaller, flips, strict=True):
        views = [whole, restored_view(small), *([turned[:, ::-1]] if flip else [])]
        variances.append(float(2 * np.std(views, axis=0).mean()))
    return variances


def encoder_features(detector: Detector, images: Sequence[np.ndarray], batch: int = 16) -> np.ndarray:
    """Unit-length encoder features of each image, float32 NC, for distances in [0, 2].

    Raises `ConfigRefused` for a detector without an encoder.
    """
    if not isinstance(detector, NetworkDetector):
        raise ConfigRefused(f"{detector.name} has no encoder features; mine with features=thumbnail")
    rows = []
    for image in images:
        rows.append(F.interpolate(as_images([image]), (detector.config.size,) * 2, mode="bilinear"))
    device = next(detector.parameters()).device
    features = [detector.features(torch.cat(part).to(device)).cpu() for part in _parts(rows, batch)]
    return F.normalize(torch.cat(features), dim=1).numpy() if features else np.zeros((0, 0), np.float32)


def shrunk_view(image: np.ndarray) -> np.ndarray:
    """The uint8 HW3 image shrunk to `SHRUNK` of its side and centred, padded with its edge to the old
    size."""
    height, width = image.shape[:2]
    rows, columns = _inner(height), _inner(width)
    small = F.interpolate(
        as_images([image]), (rows, columns), mode="bilinear", align_corners=False, antialias=True
    )
    top, left = (height - rows) // 2, (width - columns) // 2
    around = (left, width - columns - left, top, height - rows - top)
    padded = F.pad(small, around, mode="replicate")[0].permute(1, 2, 0)
    return (padded.clamp(0, 1) * 255).round().byte().numpy()


def restored_view(map_: np.ndarray) -> np.ndarray:
    """The centre of a map of `shrunk_view`, float32 HW, at the image's scale."""
    height, width = map_.shape
    rows, columns = _inner(height), _inner(width)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = torch.from_numpy(np.ascontiguousarray(map_[top : top + rows, left : left + columns]))
    whole = F.interpolate(middle[None, None], (height, width), mode="bilinear", align_corners=False)
    return whole[0, 0].numpy()


def _inner(side: int) -> int:
    return max(1, round(side * SHRUNK))


def _parts(rows: Sequence[Tensor], size: int) -> list[list[Tensor]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
