"""Categories that stand out: robust z scores and their p-values, corrected for looking at many. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import erfc, sqrt
from statistics import median

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
