"""Evidence on each category, per generator: how unusual its confidences are, and how surely (DiffDoctor).

Beside the verdicts of `categories`, which decide; these figures say why, and which generator is to blame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import erfc, sqrt
from statistics import median

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import InputRefused

MAD_TO_SIGMA = 1.4826
"""A normal distribution's deviation over its median absolute deviation."""
EVERY = ""
"""The generator of a row over all of them."""

Confidences = Mapping[tuple[str, str], Sequence[float]]
"""Highest confidences in [0, 1] by category and generator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the images of one category, by one generator or by all, say against it."""

    category: str
    generator: str
    """Empty: all generators together."""
    images: int
    median: float
    z: float | None
    """Distance of the median from the median of all categories' medians, in robust deviations; None with too
    few images or categories."""
    effect: float | None
    """Cliff's δ in [−1, 1]: how much more often its images lie above the other categories' than below."""
    p: float | None
    """One-sided p of the rank test (Mann–Whitney) against the other categories."""
    q: float | None
    """That p after Benjamini–Hochberg over all rows."""


def evidence(confidences: Confidences, minimum: int = 20) -> list[Evidence]:
    """Rows for each category over all generators and, with more than one, for each generator alone.

    A row is compared with the other categories of the same generators. Below `minimum` images, or without
    another category of that many, it is only counted. The most unusual rows stand first. Raises
    `InputRefused` for a confidence outside [0, 1].
    """
    generators = sorted({generator for _, generator in confidences})
    rows: list[Evidence] = []
    for generator in [EVERY, *(generators if len(generators) > 1 else [])]:
        rows += _of_generator(_by_category(confidences, generator), generator, minimum)
    return sorted(_adjusted(rows), key=_unusual)


def rank_test(values: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float]:
    """(Cliff's δ, one-sided p that `values` lie above `others`), ties counted half (Mann & Whitney 1947)."""
    from scipy.stats import mannwhitneyu

    found = mannwhitneyu(values, others, alternative="greater")
    return float(2 * found.statistic / (len(values) * len(others)) - 1), float(found.pvalue)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p-values: the smallest false discovery rate at which each is still called (1995)."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)
    scaled = values[order] * len(values) / (np.arange(len(values)) + 1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return [float(value) for value in adjusted]


def _by_category(confidences: Confidences, generator: str) -> dict[str, NDArray[np.float64]]:
    found: dict[str, list[float]] = {}
    for (category, made_by), values in confidences.items():
        if generator in (EVERY, made_by):
            found.setdefault(category, []).extend(values)
    arrays = {category: np.asarray(values, dtype=np.float64) for category, values in sorted(found.items())}
    if any(not ((values >= 0) & (values <= 1)).all() for values in arrays.values()):
        raise InputRefused("confidences must be numbers in [0, 1]; diagnose the images again")
    return {category: values for category, values in arrays.items() if len(values)}


def _of_generator(values: Mapping[str, NDArray[np.float64]], generator: str, minimum: int) -> list[Evidence]:
    judged = {category: found for category, found in values.items() if len(found) >= minimum}
    medians = np.array([np.median(found) for found in judged.values()])
    centre = float(np.median(medians)) if len(medians) else 0.0
    spread = MAD_TO_SIGMA * float(np.median(np.abs(medians - centre))) if len(medians) else 0.0
    rows = []
    for category, found in values.items():
        median = float(np.median(found))
        z = effect = p = None
        if category in judged and len(judged) > 1:
            z = (median - centre) / spread if spread > 0 else None
            others = np.concatenate([other for name, other in judged.items() if name != category])
            effect, p = rank_test(found, others)
        rows.append(
            Evidence(
                category=category,
                generator=generator,
                images=len(found),
                median=median,
                z=z,
                effect=effect,
                p=p,
                q=None,
            )
        )
    return rows


def _unusual(row: Evidence) -> tuple[float, str, str]:
    """The order of rows: by effect, those without one last."""
    return 2.0 if row.effect is None else -row.effect, row.category, row.generator


def _adjusted(rows: Sequence[Evidence]) -> list[Evidence]:
    tested = [row for row in rows if row.p is not None]
    adjusted = iter(benjamini_hochberg([row.p for row in tested if row.p is not None]))
    return [row if row.p is None else replace(row, q=next(adjusted)) for row in rows]


CONSISTENT = 1.4826
"""Makes the median absolute deviation estimate the standard deviation of a normal distribution."""
LEAST_SPREAD = 0.01
"""Spread of mean confidences below which nothing stands out, in units of confidence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlier:
    """How far a category's mean lies above the others, and how likely that is by chance."""

    z: float
    p: float
    """One-sided, Holm-corrected over all categories; in (0, 1]."""


def outliers(means: Mapping[str, float]) -> dict[str, Outlier]:
    """Robust z of every category: (mean − median) / (1.4826 · MAD) over the categories' means.

    Median and MAD (Iglewicz & Hoaglin 1993) hold although up to half of the categories are hard. P-values are
    of the upper normal tail, corrected by Holm's step-down method (1979). Empty below three categories.
    """
    if len(means) < 3:
        return {}
    middle = median(means.values())
    deviation = median(abs(mean - middle) for mean in means.values())
    spread = max(CONSISTENT * deviation, LEAST_SPREAD)
    z = {category: (mean - middle) / spread for category, mean in means.items()}
    corrected = holm({category: erfc(value / sqrt(2)) / 2 for category, value in z.items()})
    return {category: Outlier(z=z[category], p=corrected[category]) for category in means}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction: never below the raw value, never decreasing along the sorted values."""
    corrected: dict[str, float] = {}
    highest, count = 0.0, len(p_values)
    for rank, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        highest = max(highest, min(1.0, (count - rank) * p_values[name]))
        corrected[name] = highest
    return corrected
