"""Detector metrics (DiffDoctor, Sec. 4.1 and Table 1), and metrics of localisation and of image
classification. NumPy and SciPy only.

`p` is the true map and `q` the predicted one, both in [0, 1] and of equal shape. The paper reports its
figures × 100; these are not scaled.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dataengine.diagnosis.image_metrics import ImageMetrics, artifact_frequency
from dataengine.diagnosis.intervals import bootstrap_intervals
from dataengine.diagnosis.ranking import area_under_roc, average_precision, counts_by_score
from dataengine.errors import InputRefused


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassMetrics:
    """The metrics of a class, over the images that contain it."""

    images: int
    pixels: int
    recall: float
    """Pixel recall: share of its pixels that are predicted."""
    miss: float
    """Miss rate: share of the images without one predicted pixel on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryMetrics:
    """The metrics of a category. A rate over no images is None."""

    images: int
    clean: int
    mse: float
    false_alarm: float | None
    """False alarm rate: share of truly clean images with an alarm."""
    miss: float | None
    """Miss rate: share of truly flawed images without one confident pixel on the flaw."""
    pixel_ap: float | None
    """See `DetectorMetrics`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorMetrics:
    """Means over images; `iou` counts pixels over the whole set. A metric over no images is None."""

    images: int
    mse: float
    kl: float
    kl1m: float
    iou: float
    frequency: float
    false_alarm: float | None
    miss: float | None
    mse_clean: float | None
    """MSE on truly clean images only."""
    kl1m_clean: float | None
    """KL(1−P‖1−Q) on truly clean images only."""
    pixel_ap: float | None
    """Average precision over the set's pixels; None without a flawed pixel."""
    auroc: float | None
    """Probability that a flawed image's highest confidence exceeds a clean one's; None without either."""
    component_precision: float | None
    """Share of the predicted components that match; None when nothing is predicted."""
    component_recall: float | None
    """Share of the true components that are found."""
    categories: dict[str, CategoryMetrics]
    classes: dict[str, ClassMetrics]
    """By class number, where the examples carry label maps."""
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals of the metrics above, over images."""


def summarise(rows: Sequence[ImageMetrics]) -> DetectorMetrics:
    """Aggregate the metrics of a set from those of its images. Raises `InputRefused` when there are none."""
    if not rows:
        raise InputRefused("there are no images to compute metrics of; pass at least one labelled image")
    clean = [row for row in rows if not row.flawed]
    union = sum(row.union for row in rows)
    return DetectorMetrics(
        images=len(rows),
        mse=_mean(row.mse for row in rows) or 0.0,
        kl=_mean(row.kl for row in rows) or 0.0,
        kl1m=_mean(row.kl1m for row in rows) or 0.0,
        iou=1.0 if union == 0 else sum(row.intersection for row in rows) / union,
        frequency=artifact_frequency([row.alarm for row in rows]),
        false_alarm=false_alarm_rate(rows),
        miss=miss_rate(rows),
        mse_clean=_mean(row.mse for row in clean),
        kl1m_clean=_mean(row.kl1m for row in clean),
        pixel_ap=pixel_ap(rows),
        auroc=auroc(rows),
        component_precision=_share(sum(row.right for row in rows), sum(row.predicted for row in rows)),
        component_recall=_share(sum(row.found for row in rows), sum(row.true for row in rows)),
        classes=_classes(rows),
        intervals=bootstrap_intervals(rows),
        categories={
            category: _category([row for row in rows if row.category == category])
            for category in sorted({row.category for row in rows})
        },
    )


def false_alarm_rate(rows: Iterable[ImageMetrics]) -> float | None:
    """Share of truly clean images with an alarm; None without clean images."""
    return _mean(row.alarm for row in rows if not row.flawed)


def miss_rate(rows: Iterable[ImageMetrics]) -> float | None:
    """Share of truly flawed images without one confident pixel on the flaw; None without flawed images."""
    return _mean(not row.hit for row in rows if row.flawed)


def pixel_ap(rows: Sequence[ImageMetrics]) -> float | None:
    """Average precision over all pixels of the images; None without a truly flawed pixel."""
    inside, outside = sum(row.inside for row in rows), sum(row.outside for row in rows)
    return _known(average_precision(np.asarray(inside), np.asarray(outside)))


def auroc(rows: Sequence[ImageMetrics]) -> float | None:
    """AUROC of the highest confidence, flawed against clean images; None without either."""
    scores, flawed = np.array([row.max for row in rows]), np.array([row.flawed for row in rows])
    return _known(area_under_roc(counts_by_score(scores, flawed), counts_by_score(scores, ~flawed)))


def _known(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def _category(rows: Sequence[ImageMetrics]) -> CategoryMetrics:
    return CategoryMetrics(
        images=len(rows),
        clean=sum(not row.flawed for row in rows),
        mse=_mean(row.mse for row in rows) or 0.0,
        false_alarm=false_alarm_rate(rows),
        miss=miss_rate(rows),
        pixel_ap=pixel_ap(rows),
    )


def _classes(rows: Sequence[ImageMetrics]) -> dict[str, ClassMetrics]:
    by_class: dict[int, list[tuple[int, int]]] = {}
    for row in rows:
        for number, counts in row.classes.items():
            by_class.setdefault(number, []).append(counts)
    return {
        str(number): ClassMetrics(
            images=len(counts),
            pixels=sum(pixels for pixels, _ in counts),
            recall=sum(found for _, found in counts) / sum(pixels for pixels, _ in counts),
            miss=sum(found == 0 for _, found in counts) / len(counts),
        )
        for number, counts in sorted(by_class.items())
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Iterable[float]) -> float | None:
    values = [float(value) for value in values]
    return sum(values) / len(values) if values else None
