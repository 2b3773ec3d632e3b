"""Evidence on each category, per generator: how unusual its confidences are, and how surely (DiffDoctor).

The verdicts of `hard_categories` decide; these figures say why, and which generator is to blame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dataengine.curation.hard_categories import robust_z
from dataengine.errors import InputRefused
from dataengine.statistics import benjamini_hochberg

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
    """Robust distance of the mean from the median of all categories' means, as in the verdict (`robust_z`);
    None with too few images or categories."""
    effect: float | None
    """Cliff's δ in [−1, 1]: how much more often its images lie above the other categories' than below."""
    p: float | None
    """One-sided p of the rank test (Mann–Whitney) against the other categories."""
    q: float | None
    """That p after Benjamini–Hochberg over all rows."""


def category_evidence(confidences: Confidences, minimum: int = 20) -> list[Evidence]:
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
    z = robust_z({category: float(found.mean()) for category, found in judged.items()})
    rows = []
    for category, found in values.items():
        effect = p = None
        if category in judged and len(judged) > 1:
            others = np.concatenate([other for name, other in judged.items() if name != category])
            effect, p = rank_test(found, others)
        rows.append(
            Evidence(
                category=category,
                generator=generator,
                images=len(found),
                median=float(np.median(found)),
                z=z.get(category),
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
