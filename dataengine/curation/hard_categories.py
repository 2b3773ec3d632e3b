"""Hard categories: images of these draw abnormally high confidence (DiffDoctor, Sec. 3.2). NumPy only.

Rounds and the curation desk judge by the same function, on the same counts of images by confidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, Self

import numpy as np

from dataengine.curation.config import HardCategoryConfig
from dataengine.errors import InputRefused
from dataengine.statistics import MAD_TO_SIGMA, adjusted, bootstrap_weights, levels

OTHERS_NEEDED = 2
STEPS = 100
"""Steps of confidence in which images are resampled; means are exact."""
FINE_STEPS = 1000
LEAST_SPREAD = 0.01
"""Spread of mean confidences below which nothing stands out, in units of confidence."""


@dataclass(frozen=True, slots=True)
class ConfidenceCounts:
    """Images of a category by highest confidence: how many in each step of 1/STEPS, and their mean."""

    counts: tuple[int, ...]
    """One for each step; the last holds 1."""
    mean: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Self:
        """Of single confidences in [0, 1]."""
        found = np.asarray(values, dtype=np.float64)
        fine = np.bincount((found * FINE_STEPS).astype(np.int64), minlength=FINE_STEPS + 1)
        mean = float(found.mean()) if len(found) else 0.0
        return cls.of_histogram({int(step): int(fine[step]) for step in np.flatnonzero(fine)}, mean)

    @classmethod
    def of_histogram(cls, fine: Mapping[int, int], mean: float) -> Self:
        """Of how many images lie in each step of 1/1000, and their mean."""
        counts = [0] * (STEPS + 1)
        for step, count in fine.items():
            counts[step * STEPS // FINE_STEPS] += count
        return cls(tuple(counts), mean)

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(self.counts)

    def resampled_means(self, draws: int, rng: np.random.Generator) -> np.ndarray:
        """Means of resampled images, float64 (draws,)."""
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
    """What the statistic must exceed to be hard."""
    z: float | None
    """Robust distance of the mean from the median of all means, see `robust_z`."""
    p: float | None
    """One-sided bootstrap p that the excess over the other categories is at most `margin`, uncorrected."""
    adjusted_p: float | None
    """That p after the configured correction for multiple comparisons."""
    verdict: Literal["hard", "easy", "too few"]
    """"too few": the category, or what it could be compared with, has too few images."""


def hard_categories(
    confidences: Mapping[str, Sequence[float] | np.ndarray], config: HardCategoryConfig | None = None
) -> list[CategoryVerdict]:
    """As `judge`, from the highest confidence of each image. Raises `InputRefused` outside [0, 1]."""
    values = {category: _checked(category, found) for category, found in confidences.items()}
    return judge({category: ConfidenceCounts.of(found) for category, found in values.items()}, config)


def judge(
    categories: Mapping[str, ConfidenceCounts], config: HardCategoryConfig | None = None
) -> list[CategoryVerdict]:
    """Judge every category from its images' highest confidences, the highest statistic first.

    The paper says "abnormally higher predicted artifact confidence" and gives no rule. Ours: with mᶜ the
    mean of a category's highest confidences, category c is hard when the lower bootstrap bound of mᶜ −
    median of the other categories' means exceeds `margin`, and mᶜ exceeds `floor`.

    - The *mean* of the maximum moves with the share of images that draw an alarm, which is what harms
      training; a median would ignore alarms in 49 % of them.
    - The *median of the other categories* stays at an easy category while fewer than half of them are hard,
      so hard ones do not hide one another; leaving c out puts an easy category against a harder median than
      itself.
    - The *bootstrap* resamples images within every category, so few or scattered images must show a larger
      excess. `margin` asks for an excess that matters, and with it wrong calls stay rare although without a
      `correction` every category is judged at the full `level`: where all are alike, 1 set of 7 categories
      in 20 or fewer. A correction lowers the level of each for the number of categories.
    - `floor` keeps quiet detectors quiet: where everything is easy, something is still the highest.

    Categories below `minimum` images get no verdict and take no part in the median.
    """
    config = config or HardCategoryConfig()
    judged = {category: found for category, found in categories.items() if found.images >= config.minimum}
    if len(judged) <= OTHERS_NEEDED:
        judged = {}
    means = {category: found.mean for category, found in judged.items()}
    excess = _excess(judged, config)
    p_values = {name: float((1 + (e <= config.margin).sum()) / (1 + len(e))) for name, e in excess.items()}
    level = levels(p_values, config.level, config.correction)
    corrected = adjusted(p_values, config.correction)
    z = robust_z(means)
    verdicts = []
    for category, found in categories.items():
        if category not in judged:
            verdicts.append(_unjudged(category, found))
            continue
        lower = float(np.quantile(excess[category], level[category]))
        limit = max(config.floor, found.mean - lower + config.margin)
        verdicts.append(
            CategoryVerdict(
                category=category,
                images=found.images,
                statistic=found.mean,
                reference=median(mean for other, mean in means.items() if other != category),
                limit=limit,
                z=z[category],
                p=p_values[category],
                adjusted_p=corrected[category],
                verdict="hard" if found.mean > limit else "easy",
            )
        )
    return sorted(verdicts, key=lambda found: (-found.statistic, found.category))


def robust_z(values: Mapping[str, float]) -> dict[str, float]:
    """(value − median) / (1.4826 · MAD) over the categories, the deviation at least `LEAST_SPREAD`.

    Median and MAD (Iglewicz & Hoaglin 1993) hold although up to half of the categories are hard. Empty below
    three categories.
    """
    if len(values) <= OTHERS_NEEDED:
        return {}
    middle = median(values.values())
    deviation = median(abs(value - middle) for value in values.values())
    spread = max(MAD_TO_SIGMA * deviation, LEAST_SPREAD)
    return {category: (value - middle) / spread for category, value in values.items()}


def _unjudged(category: str, found: ConfidenceCounts) -> CategoryVerdict:
    return CategoryVerdict(
        category=category,
        images=found.images,
        statistic=found.mean,
        reference=None,
        limit=None,
        z=None,
        p=None,
        adjusted_p=None,
        verdict="too few",
    )


def _excess(judged: Mapping[str, ConfidenceCounts], config: HardCategoryConfig) -> dict[str, np.ndarray]:
    """Bootstrap replicates of each mean less the median of the others' means, `resamples` each."""
    rng = np.random.default_rng(config.seed)
    means = {name: found.resampled_means(config.resamples, rng) for name, found in sorted(judged.items())}
    return {
        name: drawn - np.median([others for other, others in means.items() if other != name], axis=0)
        for name, drawn in means.items()
    }


def _checked(category: str, found: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(found, dtype=np.float64)
    if values.ndim != 1 or not np.all((values >= 0) & (values <= 1)):
        raise InputRefused(f"the confidences of {category!r} must be a list of numbers in [0, 1]")
    return values
