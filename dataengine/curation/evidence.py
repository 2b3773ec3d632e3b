"""Evidence on each category, per generator: effect sizes and p-values of its confidences (DiffDoctor).

The verdicts of `hard_categories` decide; these figures explain them, and show which generator is the cause.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dataengine.curation.hard_categories import robust_z
from dataengine.errors import InputRefused
from dataengine.statistics import benjamini_hochberg

ALL_GENERATORS = ""
"""Stands for all generators in a row."""

Confidences = Mapping[tuple[str, str], Sequence[float]]
"""Highest confidences in [0, 1] by category and generator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The figures of one category, for the images of one generator or of all."""

    category: str
    generator: str
    """Empty: all generators together."""
    images: int
    median: float
    z: float | None
    """Robust distance of the mean from the median of all categories' means, as in the verdict (`robust_z`);
    None with too few images or categories."""
    effect: float | None
    """Cliff's δ in [−1, 1]: how much more often its images lie above the other categories' than below."""
    p: float | None
    """One-sided p-value of the rank test (Mann–Whitney) against the other categories."""
    q: float | None
    """`p`, Benjamini–Hochberg-adjusted over all rows."""


def category_evidence(confidences: Confidences, minimum: int = 20) -> list[Evidence]:
    """Rows for each category over all generators and, with more than one, for each generator alone.

    A row is compared with the other categories of the same generators. Below `minimum` images, or without
    another category of that many, only the count is given. Rows are sorted by effect, the largest first.
    Raises `InputRefused` for a confidence outside [0, 1].
    """
    generators = sorted({generator for _, generator in confidences})
    rows: list[Evidence] = []
    for generator in [ALL_GENERATORS, *(generators if len(generators) > 1 else [])]:
        rows += _of_generator(_by_category(confidences, generator), generator, minimum)
    return sorted(_adjusted(rows), key=_unusual)


def rank_test(values: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float]:
    """(Cliff's δ, one-sided p that `values` lie above `others`), ties count half (Mann & Whitney 1947)."""
    from scipy.stats import mannwhitneyu

    test = mannwhitneyu(values, others, alternative="greater")
    return float(2 * test.statistic / (len(values) * len(others)) - 1), float(test.pvalue)


def _by_category(confidences: Confidences, generator: str) -> dict[str, NDArray[np.float64]]:
    by_category: dict[str, list[float]] = {}
    for (category, made_by), values in confidences.items():
        if generator in (ALL_GENERATORS, made_by):
            by_category.setdefault(category, []).extend(values)
    arrays = {
        category: np.asarray(values, dtype=np.float64) for category, values in sorted(by_category.items())
    }
    if any(not ((values >= 0) & (values <= 1)).all() for values in arrays.values()):
        raise InputRefused("the confidences hold values outside [0, 1] or NaN; diagnose the images again")
    return {category: values for category, values in arrays.items() if len(values)}


def _of_generator(values: Mapping[str, NDArray[np.float64]], generator: str, minimum: int) -> list[Evidence]:
    judged = {
        category: confidences for category, confidences in values.items() if len(confidences) >= minimum
    }
    z = robust_z({category: float(confidences.mean()) for category, confidences in judged.items()})
    rows = []
    for category, confidences in values.items():
        effect = p = None
        if category in judged and len(judged) > 1:
            others = np.concatenate([other for name, other in judged.items() if name != category])
            effect, p = rank_test(confidences, others)
        rows.append(
            Evidence(
                category=category,
                generator=generator,
                images=len(confidences),
                median=float(np.median(confidences)),
                z=z.get(category),
                effect=effect,
                p=p,
                q=None,
            )
        )
    return rows


def _unusual(row: Evidence) -> tuple[float, str, str]:
    """Sort key of rows: by effect, those without one last."""
    return 2.0 if row.effect is None else -row.effect, row.category, row.generator


def _adjusted(rows: Sequence[Evidence]) -> list[Evidence]:
    tested = [row for row in rows if row.p is not None]
    adjusted = iter(benjamini_hochberg([row.p for row in tested if row.p is not None]))
    return [row if row.p is None else replace(row, q=next(adjusted)) for row in rows]
