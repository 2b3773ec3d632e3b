"""Metrics of one artifact map against its true mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from dataengine.diagnosis.ranking import Counts, levels_of
from dataengine.errors import InputRefused
from dataengine.records import THRESHOLD

EPSILON = 1e-6
OVERLAP = 0.25
"""Share of a component's pixels that must lie in the other map for a match."""
NEIGHBOURS = np.ones((3, 3), dtype=bool)
ANY_CLASS = 0
"""Key of the components of the whole true mask, of whatever class."""


def mse(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over pixels of (p − q)² (DiffDoctor, Eq. 1)."""
    p, q = _pair(p, q)
    return float(np.mean((p - q) ** 2))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """KL(P‖Q): mean over pixels of p·log(p/q), large where artifacts are missed.

    q is clamped to [1e-6, 1 − 1e-6] and 0·log 0 counts as 0.
    """
    p, q = _pair(p, q)
    q = np.clip(q, EPSILON, 1 - EPSILON)
    logarithm = np.log(np.where(p > 0, p, 1.0) / q)
    return float(np.mean(np.where(p > 0, p * logarithm, 0.0)))


def kl1m(p: np.ndarray, q: np.ndarray) -> float:
    """KL(1−P‖1−Q): mean over pixels of (1−p)·log((1−p)/(1−q)), large where there are false alarms."""
    p, q = _pair(p, q)
    return kl(1 - p, 1 - q)


def artifact_frequency(maximums: Sequence[float] | np.ndarray, threshold: float = THRESHOLD) -> float:
    """Share of images whose maximum confidence is at or above `threshold` (DiffDoctor, treatment metrics)."""
    if len(maximums) == 0:
        raise InputRefused(
            "there are no images to compute the artifact frequency of; pass at least one maximum"
        )
    return float(np.mean(np.asarray(maximums) >= threshold))


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageMetrics:
    """The metrics of one image. `flawed`: its true map reaches `THRESHOLD`. `alarm`: the prediction flags it.

    `hit`: the prediction reaches its threshold on a truly flawed pixel. Intersection and union are in pixels.
    Components are 8-connected.
    """

    category: str
    mse: float
    kl: float
    kl1m: float
    max: float
    mean: float
    flawed: bool
    alarm: bool
    hit: bool
    intersection: int
    union: int
    predicted: int
    """Components of the prediction."""
    right: int
    """Predicted components with a share of `OVERLAP` or more on truly flawed pixels."""
    true: int
    """Components of the true mask."""
    found: int
    """True components with a share of `OVERLAP` or more predicted."""
    classes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """By class of the label map: its number of pixels, and how many of them are predicted."""
    peaks: Mapping[int, tuple[float, ...]] = field(default_factory=dict, compare=False, repr=False)
    """The highest predicted confidence on each true component: by class of the label map, and of the true
    mask under `ANY_CLASS`."""
    inside: Counts = field(compare=False, repr=False)
    """Truly flawed pixels by level of predicted confidence, int64 (LEVELS,)."""
    outside: Counts = field(compare=False, repr=False)
    """Truly clean pixels by level of predicted confidence, int64 (LEVELS,)."""


def image_metrics(
    p: np.ndarray,
    q: np.ndarray,
    category: str = "",
    threshold: float = THRESHOLD,
    label_map: np.ndarray | None = None,
    flagged: float | None = None,
) -> ImageMetrics:
    """Compute the metrics of one image from its true map `p` and predicted map `q`, both HW in [0, 1].

    A pixel is predicted from confidence `threshold`, and the image flagged from `flagged`, by default the
    same. `label_map`, uint8 HW, gives the classes where they are known.
    """
    inside_p, inside_q = np.asarray(p) >= THRESHOLD, np.asarray(q) >= threshold
    highest = float(np.max(q))
    intersection = int(np.count_nonzero(inside_p & inside_q))
    right, predicted = covered_components(inside_q, inside_p)
    matched, true = covered_components(inside_p, inside_q)
    return ImageMetrics(
        category=category,
        mse=mse(p, q),
        kl=kl(p, q),
        kl1m=kl1m(p, q),
        max=highest,
        mean=float(np.mean(q)),
        flawed=bool(inside_p.any()),
        alarm=highest >= (threshold if flagged is None else flagged),
        hit=intersection > 0,
        intersection=intersection,
        union=int(np.count_nonzero(inside_p | inside_q)),
        predicted=predicted,
        right=right,
        true=true,
        found=matched,
        classes=_by_class(label_map, inside_q),
        peaks=_peaks(inside_p, label_map, np.asarray(q)),
        inside=levels_of(np.asarray(q)[inside_p]),
        outside=levels_of(np.asarray(q)[~inside_p]),
    )


def covered_components(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Number of components of bool HW `mask` with a share of `OVERLAP` or more in `other`, and of all
    components."""
    labelled, count = ndimage.label(mask, NEIGHBOURS)
    if count == 0:
        return 0, 0
    shares = ndimage.mean(other.astype(np.float64), labelled, np.arange(1, count + 1))
    return int(np.count_nonzero(np.asarray(shares) >= OVERLAP)), int(count)


def _peaks(mask: np.ndarray, label_map: np.ndarray | None, q: np.ndarray) -> dict[int, tuple[float, ...]]:
    masks = {ANY_CLASS: mask}
    if label_map is not None:
        masks |= {int(number): label_map == number for number in np.unique(label_map[label_map > 0])}
    return {number: component_peaks(each, q) for number, each in masks.items()}


def component_peaks(mask: np.ndarray, q: np.ndarray) -> tuple[float, ...]:
    """The highest predicted confidence on each 8-connected component of bool HW `mask`."""
    numbers, count = ndimage.label(mask, NEIGHBOURS)
    return tuple(float(peak) for peak in ndimage.maximum(q, numbers, np.arange(1, count + 1)))


def _by_class(label_map: np.ndarray | None, predicted: np.ndarray) -> dict[int, tuple[int, int]]:
    if label_map is None:
        return {}
    return {
        int(number): (
            int(np.count_nonzero(label_map == number)),
            int(np.count_nonzero(predicted & (label_map == number))),
        )
        for number in np.unique(label_map[label_map > 0])
    }


def _pair(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps as float64; `InputRefused` on unequal or empty shapes and values outside [0, 1]."""
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.shape != q.shape or p.size == 0:
        raise InputRefused(
            f"true map {p.shape} and predicted map {q.shape} must have equal shapes and not be empty"
        )
    for name, values in (("true", p), ("predicted", q)):
        if not (np.min(values) >= 0 and np.max(values) <= 1):
            raise InputRefused(
                f"the {name} map has values outside [0, 1] or NaN; pass confidences or masks of 0 and 1"
            )
    return p, q
