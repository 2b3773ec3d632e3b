"""Hard categories: images of these draw abnormally high confidence (DiffDoctor, Sec. 3.2). NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

from dataengine.curation.config import HardCategoryConfig
from dataengine.errors import InputRefused

OTHERS_NEEDED = 2
DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryVerdict:
    """What is said of one category."""

    category: str
    images: int
    statistic: float
    """Mean over its images of the highest confidence."""
    reference: float | None
    """Median of the other categories' means; None without a verdict."""
    limit: float | None
    """What the statistic must exceed to be hard; None without a verdict."""
    verdict: Literal["hard", "easy", "too few"]
    """"too few": the category, or what it could be compared with, has too few images."""


def hard_categories(
    confidences: Mapping[str, Sequence[float] | np.ndarray], config: HardCategoryConfig | None = None
) -> list[CategoryVerdict]:
    """Judge every category from its images' highest confidences in [0, 1], the highest statistic first.

    The paper says "abnormally higher predicted artifact confidence" and gives no rule. Ours: with mᶜ the
    mean of a category's highest confidences, category c is hard when the lower bootstrap bound of mᶜ −
    median of the other categories' means exceeds `margin`, and mᶜ exceeds `floor`.

    - The *mean* of the maximum moves with the share of images that draw an alarm, which is what harms
      training; a median would ignore alarms in 49 % of them.
    - The *median of the other categories* stays at an easy category while fewer than half of them are hard,
      so hard ones do not hide one another; leaving c out puts an easy category against a harder median than
      itself.
    - The *bootstrap* resamples images within every category, so few or scattered images must show a larger
      excess. `margin` asks for an excess that matters, and with it wrong calls stay rare although every
      category is judged at the full `level`: where all are alike, 1 set of 7 categories in 20 or fewer.
    - `floor` keeps quiet detectors quiet: where everything is easy, something is still the highest.

    Categories below `minimum` images get no verdict and take no part in the median. Raises `InputRefused`
    for a confidence outside [0, 1].
    """
    config = config or HardCategoryConfig()
    values = {category: _checked(category, found) for category, found in confidences.items()}
    judged = {category: found for category, found in values.items() if len(found) >= config.minimum}
    if len(judged) <= OTHERS_NEEDED:
        judged = {}
    means = {category: float(found.mean()) for category, found in judged.items()}
    resampled = _resampled_means(judged, config)
    verdicts = []
    for category, found in values.items():
        if category not in judged:
            statistic = float(found.mean()) if len(found) else 0.0
            verdicts.append(_unjudged(category, len(found), statistic))
            continue
        reference = median(mean for other, mean in means.items() if other != category)
        others = np.median([draws for other, draws in resampled.items() if other != category], axis=0)
        lower = float(np.quantile(resampled[category] - others, config.level))
        statistic = means[category]
        limit = max(config.floor, statistic - lower + config.margin)
        verdicts.append(
            CategoryVerdict(
                category=category,
                images=len(found),
                statistic=statistic,
                reference=reference,
                limit=limit,
                verdict="hard" if statistic > limit else "easy",
            )
        )
    return sorted(verdicts, key=lambda found: (-found.statistic, found.category))


def _unjudged(category: str, images: int, statistic: float) -> CategoryVerdict:
    return CategoryVerdict(
        category=category,
        images=images,
        statistic=statistic,
        reference=None,
        limit=None,
        verdict="too few",
    )


def _resampled_means(values: Mapping[str, np.ndarray], config: HardCategoryConfig) -> dict[str, np.ndarray]:
    """Bootstrap means per category, `resamples` each, from one seed."""
    rng = np.random.default_rng(config.seed)
    means = {}
    for category, found in sorted(values.items()):
        rows = max(1, DRAWS_AT_ONCE // len(found))
        means[category] = np.concatenate(
            [
                rng.choice(found, (min(rows, config.resamples - first), len(found))).mean(axis=1)
                for first in range(0, config.resamples, rows)
            ]
        )
    return means


def _checked(category: str, found: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(found, dtype=np.float64)
    if values.ndim != 1 or not np.all((values >= 0) & (values <= 1)):
        raise InputRefused(f"the confidences of {category!r} must be a list of numbers in [0, 1]")
    return values
