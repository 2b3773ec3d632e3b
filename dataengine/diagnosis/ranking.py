"""Ranking metrics from counts by score, ascending along the last axis; leading axes are independent sets.

Pixels are counted by one of `LEVELS` levels of confidence, which reduces millions of them to two short
arrays, and images by their exact scores, of which a saturated detector has many in one level. NumPy only.
"""

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
"""Number of confidence levels, equal to those of stored 8-bit maps."""

Counts = NDArray[np.int64]


def levels_of(confidence: np.ndarray) -> Counts:
    """Count confidences in [0, 1] by level, int64 (LEVELS,)."""
    return np.bincount(np.rint(confidence * (LEVELS - 1)).astype(np.int64).ravel(), minlength=LEVELS)


def counts_by_score(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sums of `weights`, (…, N), over equal values of `scores`, (N,), in ascending order of the values."""
    order = np.argsort(scores, kind="stable")
    ordered = np.asarray(scores)[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return np.add.reduceat(np.asarray(weights, dtype=np.float64)[..., order], starts, axis=-1)


def average_precision(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Σ (Rₙ − Rₙ₋₁)·Pₙ over the levels from the highest down; NaN without positives.

    `inside` and `outside`: counts of positives and negatives by level, (…, LEVELS).
    """
    hits = np.cumsum(inside[..., ::-1], axis=-1, dtype=np.float64)
    seen = hits + np.cumsum(outside[..., ::-1], axis=-1, dtype=np.float64)
    precision = hits / np.maximum(seen, 1e-12)
    total = hits[..., -1]
    precisions = np.sum(np.diff(hits, axis=-1, prepend=0.0) * precision, axis=-1)
    return np.where(total > 0, precisions / np.maximum(total, 1e-12), np.nan)


def area_under_roc(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """P(positive above negative) + half of P(equal), from counts by score, (…, K); NaN without either.

    Equal scores thus have the mean of their ranks, as in scikit-learn.
    """
    below = np.cumsum(negative, axis=-1, dtype=np.float64) - negative
    wins = np.sum(positive * (below + 0.5 * negative), axis=-1)
    pairs = np.asarray(positive.sum(-1) * negative.sum(-1), dtype=np.float64)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1e-12), np.nan)
