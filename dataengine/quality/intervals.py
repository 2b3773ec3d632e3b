"""Bootstrap intervals of paired comparisons, over groups of dependent values. NumPy only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from dataengine.statistics import Interval, bootstrap_weights, percentile_interval

TINY = 1e-9


def ratio_of_means(
    before: ArrayLike, after: ArrayLike, groups: Sequence[str], seed: int = 0
) -> tuple[float, Interval]:
    """mean(after) / mean(before) of paired values and its 95 % interval, resampling whole groups (prompts).

    A mean of 0 before counts as 1e-9, so that the ratio stays finite.
    """
    sums = _sums(np.stack([np.asarray(before, np.float64), np.asarray(after, np.float64)], 1), groups)
    drawn = bootstrap_weights(len(sums), seed=seed) @ sums
    total = sums.sum(0)
    replicates = drawn[:, 1] / np.maximum(drawn[:, 0], TINY * len(groups))
    return float(total[1] / max(total[0], TINY * len(groups))), percentile_interval(replicates)


def mean_difference(
    before: ArrayLike, after: ArrayLike, groups: Sequence[str], seed: int = 0
) -> tuple[float, Interval]:
    """mean(after − before) of paired values and its 95 % interval, resampling whole groups."""
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    sums = _sums(np.stack([difference, np.ones_like(difference)], 1), groups)
    drawn = bootstrap_weights(len(sums), seed=seed) @ sums
    total = sums.sum(0)
    return float(total[0] / total[1]), percentile_interval(drawn[:, 0] / drawn[:, 1])


def _sums(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Sum the rows of each group."""
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((number.max() + 1, values.shape[1]))
    np.add.at(sums, number, values)
    return sums
