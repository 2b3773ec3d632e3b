"""Bootstrap intervals of a detector's metrics, over images. NumPy only.

Every metric is a function of sums over images, or over those of equal score, so few products of resampling
weights and per-image columns compute it for all resamples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dataengine.diagnosis.ranking import area_under_roc, average_precision, counts_by_score
from dataengine.statistics import bootstrap_weights, percentile_interval

if TYPE_CHECKING:
    from dataengine.diagnosis.image_metrics import ImageMetrics


DRAWS = 500

Totals = Mapping[str, np.ndarray]
"""Sums over the images of each resample, (draws,), or by score, (draws, K)."""


def bootstrap_intervals(
    rows: "Sequence[ImageMetrics]", draws: int = DRAWS, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals by metric; one that is undefined in some resample has none."""
    weights = bootstrap_weights(len(rows), draws, seed)
    columns, highest = _columns(rows), np.array([row.max for row in rows])
    totals = {name: weights @ column for name, column in columns.items()}
    for name in ("flawed", "clean"):
        totals[f"{name}_highest"] = counts_by_score(highest, weights * columns[name])
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {name: figure(totals) for name, figure in FIGURES.items()}
    return {
        name: percentile_interval(replicates)
        for name, replicates in values.items()
        if np.isfinite(replicates).all()
    }


def _columns(rows: "Sequence[ImageMetrics]") -> dict[str, np.ndarray]:
    plain = ("mse", "kl", "kl1m", "intersection", "union", "predicted", "right", "true", "found", "flawed")
    columns = {name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in plain}
    flawed, alarm = columns["flawed"], np.array([row.alarm for row in rows], dtype=np.float64)
    hit = np.array([row.hit for row in rows], dtype=np.float64)
    return columns | {
        "images": np.ones(len(rows)),
        "alarm": alarm,
        "clean": 1 - flawed,
        "clean_alarm": (1 - flawed) * alarm,
        "missed": flawed * (1 - hit),
        "mse_clean": (1 - flawed) * columns["mse"],
        "kl1m_clean": (1 - flawed) * columns["kl1m"],
        "inside": np.array([row.inside for row in rows], dtype=np.float64),
        "outside": np.array([row.outside for row in rows], dtype=np.float64),
    }


def _over(part: str, whole: str) -> Callable[[Totals], np.ndarray]:
    return lambda totals: totals[part] / totals[whole]


FIGURES: Mapping[str, Callable[[Totals], np.ndarray]] = {
    "mse": _over("mse", "images"),
    "kl": _over("kl", "images"),
    "kl1m": _over("kl1m", "images"),
    "frequency": _over("alarm", "images"),
    "false_alarm": _over("clean_alarm", "clean"),
    "miss": _over("missed", "flawed"),
    "mse_clean": _over("mse_clean", "clean"),
    "kl1m_clean": _over("kl1m_clean", "clean"),
    "iou": _over("intersection", "union"),
    "component_precision": _over("right", "predicted"),
    "component_recall": _over("found", "true"),
    "pixel_ap": lambda totals: average_precision(totals["inside"], totals["outside"]),
    "auroc": lambda totals: area_under_roc(totals["flawed_highest"], totals["clean_highest"]),
}
"""The functions of each metric of `DetectorMetrics`, from sums over images."""

HIGHER_IS_BETTER = ("iou", "component_precision", "component_recall", "pixel_ap", "auroc")
"""Those of these metrics that a better detector raises."""
