"""Score dynamics (ASCED): where the predicted image changes abruptly while it is drawn. NumPy and SciPy only.

Frames are what was predicted at consecutive steps, TCHW from noise to image: x̂_0, or the weighted score
w·s = x̂_0 − x_t/α_t (Sec. 3.4), in latents or in pixels. Nothing here knows a generator.
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
TOLERANCE = 1e-6
"""Of shares: a step at 0.8 of the way is inside a window that starts there, whatever its rounding."""
TINY = 1e-12


@dataclass(frozen=True)
class Dynamics:
    """One image's score dynamics."""

    changes: Floats
    """|Δ| between consecutive frames, the highest of the channels, (T − 1)HW."""
    abnormal: Mask
    """Which of them are beyond their step's threshold, (T − 1)HW, before regions are made of them."""
    regions: Mask
    """HW: the accumulated artifact regions."""
    excess: Floats
    """HW: how far the furthest change is towards its threshold (1) or beyond."""

    @property
    def strength(self) -> float:
        """How much the prediction moves in a step, over the whole image: a score of the image as such.

        Comparable only among images of one generator and number of steps.
        """
        return float(self.changes.mean())

    @property
    def confidence(self) -> Floats:
        """HW in [0, 1]: e/(e + 1) of the excess, at least one half inside the regions and less outside, so
        that a threshold of one half gives the regions back, stored as 8 bits too."""
        graded = self.excess / (self.excess + 1)
        return np.where(self.regions, np.maximum(graded, 0.5), np.minimum(graded, BELOW)).astype(np.float32)


def window_steps(shares: Sequence[float], start: float, stop: float) -> list[int]:
    """Steps whose share of the way, counted from noise = 1, lies in [stop, start]."""
    return [step for step, share in enumerate(shares) if stop - TOLERANCE <= share <= start + TOLERANCE]


def compute_dynamics(frames: NDArray[np.generic], config: DynamicsConfig) -> Dynamics:
    """Dynamics of one image's frames, TCHW, T ≥ 2; 8-bit frames are compared as whole numbers.

    Raises `ConfigRefused` for fewer than two frames.
    """
    if len(frames) < 2:
        raise ConfigRefused(f"{len(frames)} predicted images were given; changes need two or more")
    changes = np.abs(np.diff(frames.astype(np.float32), axis=0))
    changes = smooth(changes, config)
    bases, limits = thresholds(changes, config)
    beyond = changes > limits[:, None, None, None]
    span = np.maximum(limits - bases, TINY)[:, None, None, None]
    excess = np.maximum(changes - bases[:, None, None, None], 0) / span
    abnormal: Mask = np.any(beyond, axis=1)
    return Dynamics(
        changes=changes.max(1),
        abnormal=abnormal,
        regions=abnormal_regions(np.any(abnormal, axis=0), config),
        excess=excess.max((0, 1)).astype(np.float32),
    )


def smooth(changes: Floats, config: DynamicsConfig) -> Floats:
    """Each change map of each channel under the configured Gaussian."""
    from scipy import ndimage

    sigma = config.sigma * min(changes.shape[-2:])
    return ndimage.gaussian_filter(changes, (0, 0, sigma, sigma)) if sigma else changes


def thresholds(changes: Floats, config: DynamicsConfig) -> tuple[Floats, Floats]:
    """(base, τ) of every step, each of shape (T − 1,): what is ordinary, and from where it is abnormal.

    "robust": the median, and 3 · 1.4826 · MAD above it, over all values of the step. "paper": 0, and
    τ = max(MAD, mean of the score bank) of Eq. 4; the bank holds |Δ(w·s)| of all steps so far, as the paper
    does not say what it keeps.
    """
    values = changes.reshape(len(changes), -1)
    medians = np.median(values, 1)
    deviations = np.median(np.abs(values - medians[:, None]), 1)
    if config.form == "robust":
        return medians, medians + np.float32(config.deviations * MAD_TO_SIGMA) * deviations
    bank = np.cumsum(values.mean(1)) / np.arange(1, len(values) + 1)
    return np.zeros_like(medians), np.maximum(deviations, bank).astype(np.float32)


def abnormal_regions(abnormal: Mask, config: DynamicsConfig) -> Mask:
    """Bool HW: the components of fitting area that survive the erosion, grown by the dilation.

    Components touch along sides or corners.
    """
    from scipy import ndimage

    side, area = min(abnormal.shape), abnormal.size
    numbers, count = ndimage.label(abnormal, structure=np.ones((3, 3)))
    if count == 0:
        return np.zeros(abnormal.shape, dtype=bool)
    areas = np.bincount(numbers.ravel(), minlength=count + 1)
    kept = (areas >= config.smallest * area) & (areas <= config.largest * area)
    square = round(config.erosion * side)
    if square > 1:
        inner = ndimage.binary_erosion(abnormal, structure=np.ones((square, square)))
        kept &= np.bincount(numbers[inner], minlength=count + 1) > 0
    kept[0] = False
    found = kept[numbers]
    if not found.any():
        return found
    return ndimage.distance_transform_edt(~found) <= config.dilation * side


def upsample_map(map_: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.generic]:
    """The map of a latent grid, …HW, at `size` (height, width) in pixels, each with its latent's value."""
    rows = np.arange(size[0]) * map_.shape[-2] // size[0]
    columns = np.arange(size[1]) * map_.shape[-1] // size[1]
    return map_[..., rows[:, None], columns]


def dynamics_at_point(
    found: Dynamics, point: tuple[int, int], size: tuple[int, int]
) -> tuple[Floats, Floats]:
    """|Δ| over the steps at one pixel (x, y) of an image of `size`, and beside it the image's median.

    The paper's Fig. 4. Both of shape (T − 1,). Raises `ConfigRefused` for a point outside.
    """
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise ConfigRefused(f"the point {x},{y} lies outside the image, which is {width} × {height} pixels")
    rows, columns = found.changes.shape[-2:]
    at = found.changes[:, y * rows // height, x * columns // width]
    return at, np.median(found.changes.reshape(len(found.changes), -1), 1)


def abnormal_shares(found: Sequence[Dynamics]) -> NDArray[np.float64]:
    """Share of abnormal places at each step, averaged over the images (Fig. 7), shape (T − 1,)."""
    return np.mean([each.abnormal.mean((1, 2)) for each in found], axis=0)
