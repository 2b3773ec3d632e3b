"""Hard categories: those whose images get abnormally high confidence (DiffDoctor, Sec. 3.2). NumPy only.

Rounds and the curation desk use the same function, on the same counts of images by confidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, Self

import numpy as np

from dataengine.curation.config import HardCategoryConfig
from dataengine.errors import InputRefused
from dataengine.records import THRESHOLD
from dataengine.statistics import MAD_TO_SIGMA, adjusted, bootstrap_weights, levels

OTHERS_NEEDED = 2
STEPS = 100
"""Steps of confidence in which images are resampled; means are exact."""
FINE_STEPS = 1000
LEAST_SPREAD = 0.01
"""Spread of mean confidences below which no category is an outlier, in units of confidence."""


@dataclass(frozen=True, slots=True)
class ConfidenceCounts:
    """Images of a category by highest confidence: how many in each step of 1/STEPS, and their mean."""

    counts: tuple[int, ...]
    """Images per step; the last step holds confidence 1."""
    mean: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Self:
        """Count single confidences in [0, 1]."""
        confidences = np.asarray(values, dtype=np.float64)
        fine = np.bincount((confidences * FINE_STEPS).astype(np.int64), minlength=FINE_STEPS + 1)
        mean = float(confidences.mean()) if len(confidences) else 0.0
        return cls.of_histogram({int(step): int(fine[step]) for step in np.flatnonzero(fine)}, mean)

    @classmethod
    def of_histogram(cls, fine: Mapping[int, int], mean: float) -> Self:
        """From the number of images in each step of 1/1000, and their mean."""
        counts = [0] * (STEPS + 1)
        for step, count in fine.items():
            counts[step * STEPS // FINE_STEPS] += count
        return cls(tuple(counts), mean)

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(self.counts)

    def resampled_means(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Means of the bootstrap resamples, float64 (draws,)."""
        counts = np.asarray(self.counts)
        used = np.flatnonzero(counts)
        middles = (used + 0.5) / STEPS
        offset = self.mean - counts[used] @ middles / counts.sum()
        return bootstrap_weights(counts[used], draws, rng) @ middles / counts.sum() + offset


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryVerdict:
    """The verdict on one category; figures are None without one."""

    category: str
    images: int
    statistic: float
    """Mean over its images of the highest confidence."""
    reference: float | None
    """Median of the other categories' means."""
    limit: float | None
    """The limit that the statistic must exceed for the category to be hard."""
    z: float | None
    """Robust distance of the mean from the median of all means, see `robust_z`."""
    p: float | None
    """One-sided bootstrap p-value of "the excess over the other categories is at most `margin`",
    uncorrected."""
    adjusted_p: float | None
    """`p` after the configured correction for multiple comparisons."""
    verdict: Literal["hard", "easy", "too few"]
    """"too few": the category, or the others to compare it with, have too few images."""


def hard_categories(
    confidences: Mapping[str, Sequence[float] | np.ndarray], config: HardCategoryConfig | None = None
) -> list[CategoryVerdict]:
    """As `judge`, from the highest confidence of each image. Raises `InputRefused` outside [0, 1]."""
    values = {
        category: _checked(category, category_values) for category, category_values in confidences.items()
    }
    return judge(
        {category: ConfidenceCounts.of(category_values) for category, category_values in values.items()},
        config,
    )


def judge(
    categories: Mapping[str, ConfidenceCounts], config: HardCategoryConfig | None = None
) -> list[CategoryVerdict]:
    """Judge every category from its images' highest confidences, the highest statistic first.

    The paper says "abnormally higher predicted artifact confidence" and gives no rule. Ours: with mᶜ the
    mean of a category's highest confidences, category c is hard when the lower bootstrap bound of mᶜ −
    median of the other categories' means exceeds `margin`, and mᶜ exceeds `floor`.

    - The *mean* of the maximum changes with the share of images that raise an alarm, which is what harms
      training; a median would ignore alarms in 49 % of them.
    - The *median of the other categories* stays at an easy category while fewer than half of them are hard,
      so hard ones do not mask one another; with c left out, an easy category is compared with a median
      above its own.
    - The *bootstrap* resamples images within every category, so few or scattered images need a larger
      excess. `margin` requires an excess that matters, and keeps false positives rare although without a
      `correction` every category is judged at the full `level`: where all are alike, in at most 1 of 20
      sets of 7 categories. A correction lowers the level of each for the number of categories.
    - `floor` avoids verdicts on low confidences: where all categories are easy, one is still the highest.

    Categories below `minimum` images get no verdict and are left out of the median.
    """
    config = config or HardCategoryConfig()
    judged = {category: counts for category, counts in categories.items() if counts.images >= config.minimum}
    if len(judged) <= OTHERS_NEEDED:
        judged = {}
    means = {category: counts.mean for category, counts in judged.items()}
    excess = _excess(judged, config)
    p_values = {name: float((1 + (e <= config.margin).sum()) / (1 + len(e))) for name, e in excess.items()}
    level = levels(p_values, config.level, config.correction)
    corrected = adjusted(p_values, config.correction)
    z = robust_z(means)
    verdicts = []
    for category, counts in categories.items():
        if category not in judged:
            verdicts.append(_unjudged(category, counts))
            continue
        lower = float(np.quantile(excess[category], level[category]))
        limit = max(config.floor, counts.mean - lower + config.margin)
        verdicts.append(
            CategoryVerdict(
                category=category,
                images=counts.images,
                statistic=counts.mean,
                reference=median(mean for other, mean in means.items() if other != category),
                limit=limit,
                z=z[category],
                p=p_values[category],
                adjusted_p=corrected[category],
                verdict="hard" if counts.mean > limit else "easy",
            )
        )
    return sorted(verdicts, key=lambda counts: (-counts.statistic, counts.category))


def scaled_to(config: HardCategoryConfig, threshold: float) -> HardCategoryConfig:
    """The settings for a detector that flags images from `threshold`: `margin` and `floor` in proportion, so
    that the verdicts do not depend on how loud it is."""
    factor = threshold / THRESHOLD
    return config.model_copy(
        update={name: min(1.0, factor * getattr(config, name)) for name in ("margin", "floor")}
    )


def robust_z(values: Mapping[str, float]) -> dict[str, float]:
    """(value − median) / (1.4826 · MAD) over the categories, the deviation at least `LEAST_SPREAD`.

    Median and MAD (Iglewicz & Hoaglin 1993) are robust to up to half of the categories being hard. Empty
    below three categories.
    """
    if len(values) <= OTHERS_NEEDED:
        return {}
    middle = median(values.values())
    deviation = median(abs(value - middle) for value in values.values())
    spread = max(MAD_TO_SIGMA * deviation, LEAST_SPREAD)
    return {category: (value - middle) / spread for category, value in values.items()}


def _unjudged(category: str, counts: ConfidenceCounts) -> CategoryVerdict:
    return CategoryVerdict(
        category=category,
        images=counts.images,
        statistic=counts.mean,
        reference=None,
        limit=None,
        z=None,
        p=None,
        adjusted_p=None,
        verdict="too few",
    )


def _excess(judged: Mapping[str, ConfidenceCounts], config: HardCategoryConfig) -> dict[str, np.ndarray]:
    """Bootstrap replicates of each mean minus the median of the others' means, `resamples` each."""
    rng = np.random.default_rng(config.seed)
    means = {name: counts.resampled_means(config.resamples, rng) for name, counts in sorted(judged.items())}
    return {
        name: drawn - np.median([others for other, others in means.items() if other != name], axis=0)
        for name, drawn in means.items()
    }


def _checked(category: str, confidences: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(confidences, dtype=np.float64)
    if values.ndim != 1 or not np.all((values >= 0) & (values <= 1)):
        raise InputRefused(f"the confidences of {category!r} must be a list of numbers in [0, 1]")
    return values
