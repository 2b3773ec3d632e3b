"""The rule for score dynamics that this product had until 2026-11-30, to compare the released one with.

It differs in four points: each channel is filtered alone, components touch at corners too, the bounds of
their area are inclusive, and regions grow by a disc, for maps as well.
"""

import numpy as np
from scipy import ndimage

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.diagnosis.dynamics import TINY, Dynamics, thresholds

GROWTH = 5 / 256


def earlier_dynamics(frames: np.ndarray, config: DynamicsConfig) -> Dynamics:
    """Dynamics of one image's frames, TCHW, by the earlier rule."""
    sigma = config.sigma * min(frames.shape[-2:])
    changes = np.abs(np.diff(frames.astype(np.float32), axis=0))
    changes = ndimage.gaussian_filter(changes, (0, 0, sigma, sigma))
    bases, limits = thresholds(changes, config)
    highest, span = changes.max(1), np.maximum(limits - bases, TINY)[:, None, None]
    abnormal = highest > limits[:, None, None]
    excess = (np.maximum(highest - bases[:, None, None], 0) / span).max(0)
    return Dynamics(highest, abnormal, _regions(abnormal.any(0), config), excess)


def _regions(abnormal: np.ndarray, config: DynamicsConfig) -> np.ndarray:
    side, area = min(abnormal.shape), abnormal.size
    numbers, count = ndimage.label(abnormal, structure=np.ones((3, 3)))
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    kept = (areas >= config.smallest * area) & (areas <= config.largest * area)
    square = round(config.erosion * side)
    if square > 1:
        inner = ndimage.binary_erosion(abnormal, structure=np.ones((square, square)))
        kept &= np.bincount(numbers[inner], minlength=count + 1) > 0
    kept[0] = False
    found = kept[numbers]
    return ndimage.distance_transform_edt(~found) <= GROWTH * side if found.any() else found
