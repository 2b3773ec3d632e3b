"""Ratios of errors, pixel AP and labels of `make bench-regimes`, with intervals over images and seeds."""

from collections.abc import Sequence

import numpy as np

from dataengine.diagnosis.ranking import average_precision
from dataengine.statistics import DRAWS, bootstrap_weights, percentile_interval
from tests.bench.detector import needed
from tests.bench.harness import Figure, figure
from tests.bench.regime_training import Measured


def error_ratio(id: str, before: Sequence[Measured], after: Sequence[Measured], note: str) -> Figure:
    """Mean squared error after over before, over paired images; one entry of each list a seed."""
    first, last = (_table(side, "mse") for side in (before, after))
    weights = _weights(first)
    value = float(last.mean() / first.mean())
    drawn = (weights @ last.ravel()) / (weights @ first.ravel())
    return figure(id, value, percentile_interval(drawn), "ratio", first.shape[1], note)


def ap_ratio(id: str, before: Sequence[Measured], after: Sequence[Measured], note: str) -> Figure:
    """Pixel AP after over before, over paired images; one entry of each list a seed."""
    counts = [[_table(side, name) for name in ("inside", "outside")] for side in (before, after)]
    weights = _weights(counts[0][0])
    plain = np.ones((1, weights.shape[1]))
    value, drawn = (_precision(w, counts[1]) / _precision(w, counts[0]) for w in (plain, weights))
    # A resample of few images may have no flaw, and no precision.
    interval = percentile_interval(drawn[np.isfinite(drawn)])
    return figure(id, float(value[0]), interval, "ratio", counts[0][0].shape[1], note)


def labels_ratio(
    id: str,
    counts: Sequence[int],
    curves: Sequence[Sequence[Measured]],
    labels: int,
    reference: Sequence[Measured],
    note: str,
) -> Figure:
    """Labels that the curve's detectors need for the error of the reference's `labels`, over `labels`.

    `curves` has one list of seeds for each of `counts`; between counts the logarithm is interpolated.
    """
    tables = [_table(side, "mse") for side in curves]
    wanted = _table(reference, "mse")
    weights = _weights(wanted)
    value = needed(counts, [float(table.mean()) for table in tables], float(wanted.mean())) / labels
    size = weights.sum(axis=1)
    errors = np.stack([weights @ table.ravel() / size for table in tables], axis=1)
    goals = weights @ wanted.ravel() / size
    drawn = [
        needed(counts, row.tolist(), float(goal)) / labels for row, goal in zip(errors, goals, strict=True)
    ]
    return figure(id, value, percentile_interval(drawn), "ratio", wanted.shape[1], note)


def pixel_ap(measured: Sequence[Measured]) -> float:
    """Average precision over the pixels of all images and seeds."""
    counts = [_table(measured, name) for name in ("inside", "outside")]
    return float(_precision(np.ones((1, counts[0].shape[0] * counts[0].shape[1])), counts)[0])


def crossing(labels: Sequence[int], ratios: Sequence[float]) -> float | None:
    """The number of labels from which a ratio that began below 1 is 1, interpolated over its logarithm; None
    where it is below 1 at all of them, 0 where at none of the first."""
    if ratios[0] >= 1:
        return 0.0
    for (few, low), (many, high) in zip(
        zip(labels, ratios, strict=True), zip(labels[1:], ratios[1:], strict=True), strict=False
    ):
        if high >= 1:
            share = (1 - low) / (high - low)
            return float(np.exp(np.log(few) + share * (np.log(many) - np.log(few))))
    return None


def _table(side: Sequence[Measured], name: str) -> np.ndarray:
    """Seeds × images (× levels)."""
    return np.stack([np.asarray(measured[name], np.float64) for measured in side])


def _weights(table: np.ndarray) -> np.ndarray:
    """Weights of each seed and image in each resample of both, (draws, seeds · images)."""
    rng = np.random.default_rng(0)
    seeds, images = (bootstrap_weights(size, DRAWS, rng) for size in table.shape[:2])
    return (seeds[:, :, None] * images[:, None, :]).reshape(DRAWS, -1)


def _precision(weights: np.ndarray, counts: Sequence[np.ndarray]) -> np.ndarray:
    inside, outside = (weights @ table.reshape(-1, table.shape[-1]) for table in counts)
    return average_precision(inside, outside)
