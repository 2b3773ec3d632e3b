"""How sure a comparison is: bootstrap intervals over groups that belong together (Efron 1979). NumPy only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

DRAWS = 2000
TAIL = 2.5
TINY = 1e-9

Interval = tuple[float, float]


def ratio(
    before: ArrayLike, after: ArrayLike, groups: Sequence[str], seed: int = 0
) -> tuple[float, Interval]:
    """mean(after) / mean(before) of paired values and its 95 % interval, resampling whole groups (prompts).

    A mean of 0 before counts as 1e-9, so that the ratio stays finite.
    """
    sums = _sums(np.stack([np.asarray(before, np.float64), np.asarray(after, np.float64)], 1), groups)
    drawn = _resampled(sums, seed)
    total = sums.sum(0)
    spread = drawn[:, 1] / np.maximum(drawn[:, 0], TINY * len(groups))
    return float(total[1] / max(total[0], TINY * len(groups))), _between(spread)


def mean_difference(
    before: ArrayLike, after: ArrayLike, groups: Sequence[str], seed: int = 0
) -> tuple[float, Interval]:
    """mean(after − before) of paired values and its 95 % interval, resampling whole groups."""
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    sums = _sums(np.stack([difference, np.ones_like(difference)], 1), groups)
    drawn = _resampled(sums, seed)
    total = sums.sum(0)
    return float(total[0] / total[1]), _between(drawn[:, 0] / drawn[:, 1])


def _sums(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """Sums of each group's rows."""
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.zeros((number.max() + 1, values.shape[1]))
    np.add.at(sums, number, values)
    return sums


def _resampled(sums: np.ndarray, seed: int) -> np.ndarray:
    """Totals over groups drawn with replacement, one row a draw."""
    rng = np.random.default_rng(seed)
    return sums[rng.integers(0, len(sums), (DRAWS, len(sums)))].sum(1)


def _between(values: np.ndarray) -> Interval:
    low, high = np.percentile(values, (TAIL, 100 - TAIL))
    return float(low), float(high)
