"""Shared statistics: bootstrap, intervals of proportions, tests, corrections. NumPy; SciPy is imported where
it is used.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
CONFIDENCE = 0.95
MAD_TO_SIGMA = 1.4826
"""Ratio of a normal distribution's standard deviation to its median absolute deviation."""

Interval = tuple[float, float]
Verdict = Literal["better", "within noise", "worse"]
Correction = Literal["none", "holm", "benjamini-hochberg"]


def bootstrap_weights(
    units: int | ArrayLike, draws: int = DRAWS, seed: int | np.random.Generator = 0
) -> NDArray[np.float64]:
    """Counts of each unit in each resample with replacement (Efron 1979), float64 (draws, units).

    `units` is the number of units, or the multiplicity of each entry. Sums over resamples are
    `weights @ columns`, for all resamples at once.
    """
    counts = np.ones(units) if isinstance(units, int) else np.asarray(units, dtype=np.float64)
    total = counts.sum()
    rng = np.random.default_rng(seed)
    return rng.multinomial(int(total), counts / total, size=draws).astype(np.float64)


def percentile_interval(replicates: ArrayLike) -> Interval:
    """The 95 % percentile interval of bootstrap replicates."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.asarray(replicates, dtype=np.float64), (tail, 100 - tail))
    return float(low), float(high)


def wilson(successes: int, trials: int) -> Interval:
    """95 % score interval of a proportion (Wilson 1927); (0, 1) for no trials."""
    from scipy.stats import binomtest

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def difference_interval(before: float, of_before: Interval, after: float, of_after: Interval) -> Interval:
    """95 % interval of after − before for independent samples, from the interval of each.

    Newcombe 1998, method 10; for other figures than proportions Zou & Donner 2008. For two measurements of
    the same units it is wider than a paired interval.
    """
    change = after - before
    down = np.hypot(after - of_after[0], of_before[1] - before)
    up = np.hypot(of_after[1] - after, before - of_before[0])
    return float(change - down), float(change + up)


def verdict_of(change: Interval, lower_is_better: bool = True) -> Verdict:
    """What an interval of after − before says: "within noise" unless it excludes 0."""
    low, high = change
    if low <= 0 <= high:
        return "within noise"
    return "better" if (high < 0) == lower_is_better else "worse"


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of the sign test: ties left out, both outcomes equally likely."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def paired_t_test(before: ArrayLike, after: ArrayLike) -> float | None:
    """Two-sided p-value of Student's t-test on paired values, shape (N,); None for fewer than two pairs.

    1 where all differences are 0, and 0 where all are equal and not 0.
    """
    from scipy.stats import ttest_1samp

    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if len(differences) < 2:
        return None
    if np.ptp(differences) == 0:
        return float(differences[0] == 0)
    return float(ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction (1979): never below the raw value, in ascending order of the raw values."""
    corrected: dict[str, float] = {}
    highest, count = 0.0, len(p_values)
    for rank, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        highest = max(highest, min(1.0, (count - rank) * p_values[name]))
        corrected[name] = highest
    return corrected


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg-adjusted p-values: the smallest false discovery rate at which each is significant
    (1995)."""
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(p_values)] if len(p_values) else []


def adjusted(p_values: Mapping[str, float], correction: Correction) -> dict[str, float]:
    """The p-values after a correction for multiple comparisons."""
    if correction == "holm":
        return holm(p_values)
    if correction == "benjamini-hochberg":
        return dict(zip(p_values, benjamini_hochberg(list(p_values.values())), strict=True))
    return dict(p_values)


def levels(p_values: Mapping[str, float], level: float, correction: Correction) -> dict[str, float]:
    """The level that each raw p-value is compared with under a correction, in (0, level].

    Holm's levels grow from level / m along the sorted values up to the first failure, whose level applies to
    the rest; Benjamini and Hochberg's is `level` times the share of significant values, or 1 / m without any.
    """
    if correction == "none" or not p_values:
        return dict.fromkeys(p_values, level)
    ordered, count = sorted(p_values, key=lambda name: (p_values[name], name)), len(p_values)
    if correction == "holm":
        failed = (i for i, name in enumerate(ordered) if p_values[name] > level / (count - i))
        last = next(failed, count - 1)
        return {name: level / (count - min(i, last)) for i, name in enumerate(ordered)}
    called = max((i for i, name in enumerate(ordered, 1) if p_values[name] <= level * i / count), default=0)
    return dict.fromkeys(ordered, level * max(called, 1) / count)
