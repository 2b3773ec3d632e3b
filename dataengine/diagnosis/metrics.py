"""Detector metrics (DiffDoctor, Sec. 4.1 and Table 1; METHODS 1). NumPy only.

Throughout, `p` is the true map and `q` the predicted one, both in [0, 1] and of one shape. The paper prints
its figures × 100; these are plain.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.errors import InputRefused

EPSILON = 1e-6


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


def iou(p: np.ndarray, q: np.ndarray, threshold: float = 0.5) -> float:
    """Intersection over union of the pixels at or above `threshold`; 1 when both are empty."""
    p, q = _pair(p, q)
    inside_p, inside_q = p >= threshold, q >= threshold
    union = np.count_nonzero(inside_p | inside_q)
    return 1.0 if union == 0 else float(np.count_nonzero(inside_p & inside_q) / union)


def artifact_frequency(maximums: Sequence[float] | np.ndarray, threshold: float = 0.5) -> float:
    """Share of images whose maximum confidence is at or above `threshold` (METHODS 1, treatment metrics)."""
    if len(maximums) == 0:
        raise InputRefused("the artifact frequency of no images was asked; give at least one maximum")
    return float(np.mean(np.asarray(maximums) >= threshold))


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageMetrics:
    """One image's figures. `flawed`: its true map reaches the threshold. `alarm`: the prediction does.

    `hit`: the prediction reaches the threshold on a truly flawed pixel. Intersection and union are in pixels.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryMetrics:
    """A category's figures. A rate over no images is None."""

    images: int
    clean: int
    mse: float
    false_alarm: float | None
    """Share of truly clean images that draw an alarm."""
    miss: float | None
    """Share of truly flawed images without one confident pixel on the flaw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorMetrics:
    """Means over images; `iou` counts pixels over the whole set. A figure over no images is None."""

    images: int
    mse: float
    kl: float
    kl1m: float
    iou: float
    frequency: float
    false_alarm: float | None
    miss: float | None
    mse_clean: float | None
    """MSE on truly clean images alone."""
    kl1m_clean: float | None
    """KL(1−P‖1−Q) on truly clean images alone."""
    categories: dict[str, CategoryMetrics]


def image_metrics(p: np.ndarray, q: np.ndarray, category: str = "", threshold: float = 0.5) -> ImageMetrics:
    """Every figure of one image from its true map `p` and predicted map `q`, both HW in [0, 1]."""
    inside_p, inside_q = np.asarray(p) >= threshold, np.asarray(q) >= threshold
    intersection = int(np.count_nonzero(inside_p & inside_q))
    return ImageMetrics(
        category=category,
        mse=mse(p, q),
        kl=kl(p, q),
        kl1m=kl1m(p, q),
        max=float(np.max(q)),
        mean=float(np.mean(q)),
        flawed=bool(inside_p.any()),
        alarm=bool(inside_q.any()),
        hit=intersection > 0,
        intersection=intersection,
        union=int(np.count_nonzero(inside_p | inside_q)),
    )


def summarise(rows: Sequence[ImageMetrics]) -> DetectorMetrics:
    """Figures of a set from those of its images. Raises `InputRefused` when there are none."""
    if not rows:
        raise InputRefused("metrics of no images were asked; give at least one labelled image")
    clean = [row for row in rows if not row.flawed]
    union = sum(row.union for row in rows)
    return DetectorMetrics(
        images=len(rows),
        mse=_mean(row.mse for row in rows) or 0.0,
        kl=_mean(row.kl for row in rows) or 0.0,
        kl1m=_mean(row.kl1m for row in rows) or 0.0,
        iou=1.0 if union == 0 else sum(row.intersection for row in rows) / union,
        frequency=artifact_frequency([row.alarm for row in rows]),
        false_alarm=false_alarm(rows),
        miss=miss(rows),
        mse_clean=_mean(row.mse for row in clean),
        kl1m_clean=_mean(row.kl1m for row in clean),
        categories={
            category: _category([row for row in rows if row.category == category])
            for category in sorted({row.category for row in rows})
        },
    )


def false_alarm(rows: Iterable[ImageMetrics]) -> float | None:
    """Share of truly clean images that draw an alarm; None without clean images."""
    return _mean(row.alarm for row in rows if not row.flawed)


def miss(rows: Iterable[ImageMetrics]) -> float | None:
    """Share of truly flawed images without one confident pixel on the flaw; None without flawed images."""
    return _mean(not row.hit for row in rows if row.flawed)


def _category(rows: Sequence[ImageMetrics]) -> CategoryMetrics:
    return CategoryMetrics(
        images=len(rows),
        clean=sum(not row.flawed for row in rows),
        mse=_mean(row.mse for row in rows) or 0.0,
        false_alarm=false_alarm(rows),
        miss=miss(rows),
    )


def _mean(values: Iterable[float]) -> float | None:
    values = [float(value) for value in values]
    return sum(values) / len(values) if values else None


def _pair(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both maps as float64; `InputRefused` on unequal or empty shapes and values outside [0, 1]."""
    p, q = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if p.shape != q.shape or p.size == 0:
        raise InputRefused(
            f"true map {p.shape} and predicted map {q.shape} must have one shape and not be empty"
        )
    for name, values in (("true", p), ("predicted", q)):
        if not (np.min(values) >= 0 and np.max(values) <= 1):
            raise InputRefused(
                f"the {name} map leaves [0, 1] or holds NaN; give confidences or masks of 0 and 1"
            )
    return p, q
