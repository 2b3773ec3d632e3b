"""Score dynamics (ASCED): where the predicted image changes abruptly during sampling. NumPy and SciPy only.

The form "robust" is the rule of the authors' released code, "paper" is Eq. 4 alone.

Frames are the predictions at consecutive steps, TCHW from noise to image: x̂_0, or the weighted score
w·s = x̂_0 − x_t/α_t (Sec. 3.4), in latents or in pixels. This module is independent of generators.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataengine.diagnosis.config import DynamicsConfig
from dataengine.errors import ConfigRefused
from dataengine.statistics import MAD_TO_SIGMA

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

BELOW = 127 / 255
"""The highest 8-bit confidence that does not count as an artifact."""
TOLERANCE = 1e-3 + 1e-6
"""Tolerance of shares: DDIM's times lie a thousandth beside the share that they stand for (801 of 1,000), and
a step at 0.8 is inside a window that starts at 0.8."""
TINY = 1e-12
CHANNEL_SIGMA = 2.0
"""Sigma of the Gaussian across the channels: the released code filters H × W × 3 by one sigma of 2."""


@dataclass(frozen=True)
class Dynamics:
    """One image's score dynamics."""

    changes: Floats
    """|Δ| between consecutive frames, the highest of the channels, (T − 1)HW."""
    abnormal: Mask
    """Whether each exceeds its step's threshold, (T − 1)HW, before regions are chosen."""
    regions: Mask
    """HW: the accumulated artifact regions."""
    excess: Floats
    """HW: the largest ratio of a change to its threshold; abnormal above 1."""

    @property
    def strength(self) -> float:
        """Mean change of the prediction per step, over the whole image: an image-level score.

        Comparable only between images of one generator and number of steps.
        """
        return float(self.changes.mean())

    @property
    def confidence(self) -> Floats:
        """HW in [0, 1]: e/(e + 1) of the excess, at least 0.5 inside the regions and less outside, so that a
        threshold of 0.5 recovers the regions, from 8 bits too."""
        graded = self.excess / (self.excess + 1)
        return np.where(self.regions, np.maximum(graded, 0.5), np.minimum(graded, BELOW)).astype(np.float32)


def window_steps(shares: Sequence[float], start: float, stop: float) -> list[int]:
    """Indices of the steps whose share, from noise = 1 to image = 0, lies in [stop, start]."""
    return [step for step, share in enumerate(shares) if stop - TOLERANCE <= share <= start + TOLERANCE]


def compute_dynamics(frames: NDArray[np.generic], config: DynamicsConfig) -> Dynamics:
    """Dynamics of one image's frames, TCHW, T ≥ 2; 8-bit frames are compared as integers.

    Raises `ConfigRefused` for fewer than two frames.
    """
    if len(frames) < 2:
        raise ConfigRefused(f"got {len(frames)} frames; score dynamics need two or more")
    changes = smooth(np.abs(np.diff(frames.astype(np.float32), axis=0)), config)
    bases, limits = thresholds(changes, config)
    span = np.maximum(limits - bases, TINY)[:, None, None]
    highest = changes.max(1)
    abnormal: Mask = highest > limits[:, None, None]
    found = np.any(abnormal, axis=0)
    return Dynamics(
        changes=highest,
        abnormal=abnormal,
        regions=grow(found if config.form == "paper" else fitting_regions(found, config), config),
        excess=(np.maximum(highest - bases[:, None, None], 0) / span).max(0).astype(np.float32),
    )


def smooth(changes: Floats, config: DynamicsConfig) -> Floats:
    """Filter each step's changes, TCHW, by one Gaussian over height, width and channels; none for "paper".

    Sigma is a share of the shorter side in the image, and `CHANNEL_SIGMA` across the channels, whose number
    does not grow with the image.
    """
    if config.form == "paper" or not config.sigma:
        return changes
    from scipy import ndimage

    sigma = config.sigma * min(changes.shape[-2:])
    # Channels last, as in the released code: the axes are filtered one after the other, in float32.
    last = np.moveaxis(changes, 1, -1)
    return np.moveaxis(ndimage.gaussian_filter(last, (0, sigma, sigma, CHANNEL_SIGMA)), -1, 1)


def thresholds(changes: Floats, config: DynamicsConfig) -> tuple[Floats, Floats]:
    """(base, τ) of every step, each of shape (T − 1,): the normal level, and the threshold above it.

    "robust": the median, and 3 · 1.4826 · MAD above it, over all values of the step. "paper": 0, and τ =
    max(MAD, mean of the score bank) of Eq. 4; the bank holds |Δ(w·s)| of all steps so far, since the paper
    does not define its content.
    """
    values = changes.reshape(len(changes), -1)
    medians = np.median(values, 1)
    deviations = np.median(np.abs(values - medians[:, None]), 1)
    if config.form == "robust":
        return medians, medians + np.float32(config.deviations * MAD_TO_SIGMA) * deviations
    bank = np.cumsum(values.mean(1)) / np.arange(1, len(values) + 1)
    return np.zeros_like(medians), np.maximum(deviations, bank).astype(np.float32)


def fitting_regions(abnormal: Mask, config: DynamicsConfig) -> Mask:
    """Bool HW: the components strictly between the smallest and the largest area that survive the erosion.

    Components touch along sides, not at corners.
    """
    from scipy import ndimage

    side, area = min(abnormal.shape), abnormal.size
    numbers, count = ndimage.label(abnormal)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    kept = (areas > config.smallest * area) & (areas < config.largest * area)
    square = round(config.erosion * side)
    if square > 1:
        # A square that fits into the abnormal places lies in one component, so all are eroded at once.
        inner = ndimage.minimum_filter(abnormal, square, mode="constant")
        kept &= np.bincount(numbers[inner], minlength=count + 1) > 0
    kept[0] = False
    return kept[numbers]


def grow(regions: Mask, config: DynamicsConfig) -> Mask:
    """Bool HW: the regions grown by a square of side 2r + 1, r being the configured share of the side."""
    from scipy import ndimage

    radius = round(config.dilation * min(regions.shape))
    if not radius:
        return regions
    return ndimage.maximum_filter(regions, 2 * radius + 1, mode="constant")


def upsample_map(map_: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.generic]:
    """Upsample the map of a latent grid, …HW, to `size` (height, width) in pixels, by nearest neighbour."""
    rows = np.arange(size[0]) * map_.shape[-2] // size[0]
    columns = np.arange(size[1]) * map_.shape[-1] // size[1]
    return map_[..., rows[:, None], columns]


def dynamics_at_point(
    dynamics: Dynamics, point: tuple[int, int], size: tuple[int, int]
) -> tuple[Floats, Floats]:
    """|Δ| over the steps at one pixel (x, y) of an image of `size`, and the image's median at each step.

    The paper's Fig. 4. Both of shape (T − 1,). Raises `ConfigRefused` for a point outside.
    """
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise ConfigRefused(f"the point {x},{y} lies outside the image, which is {width} × {height} pixels")
    rows, columns = dynamics.changes.shape[-2:]
    at = dynamics.changes[:, y * rows // height, x * columns // width]
    return at, np.median(dynamics.changes.reshape(len(dynamics.changes), -1), 1)


def abnormal_shares(dynamics: Sequence[Dynamics]) -> NDArray[np.float64]:
    """Share of abnormal places at each step, averaged over the images (Fig. 7), shape (T − 1,)."""
    return np.mean([each.abnormal.mean((1, 2)) for each in dynamics], axis=0)
