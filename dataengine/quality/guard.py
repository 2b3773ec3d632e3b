"""The quality guard: detects the collapse of a treatment.

It compares images of fixed prompts and seeds with the untreated generator's images of the same prompts and
seeds. It never uses a detector: a collapsed generator fools detectors, including those that it was not
trained against.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dataengine.errors import ConfigRefused
from dataengine.quality.config import GuardConfig, Limits

Images = NDArray[np.uint8]
"""uint8 NHWC."""


class AttributeReader(Protocol):
    """Measures whether images still show the attributes of their prompts."""

    def match(self, images: Images, prompts: Sequence[str]) -> NDArray[np.floating]:
        """Share of each prompt's attributes that its image shows, in [0, 1], shape (N,)."""
        ...


class Scorer(Protocol):
    """A preference model."""

    name: str

    def score(self, images: Images, prompts: Sequence[str]) -> NDArray[np.floating]:
        """One score per image, shape (N,), on any scale."""
        ...


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The measurements of the untreated generator's images."""

    images: Images
    detail: float
    diversity: float
    attributes: float | None
    scores: dict[str, tuple[float, float]]
    """Mean and standard deviation by scorer."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One measurement: values by name, and messages for those outside their limits."""

    values: dict[str, float]
    breaches: tuple[str, ...] = field(default=())


class Guard:
    """Fixed prompts and seeds, and two-sided limits on how their images may change."""

    def __init__(
        self,
        config: GuardConfig,
        prompts: Sequence[str],
        reader: AttributeReader | None = None,
        scorers: Sequence[Scorer] = (),
        seed: int = 0,
    ) -> None:
        """Uses the first `config.prompts` of `prompts`, which should not be trained on, with `config.seeds`
        images each.

        Raises `ConfigRefused` for no prompts.
        """
        chosen = list(prompts)[: config.prompts]
        if not chosen:
            raise ConfigRefused("the quality guard has no prompts; pass some that are not used in training")
        self.config = config
        self.prompts = [prompt for prompt in chosen for _ in range(config.seeds)]
        """One prompt per image; images of one prompt are consecutive."""
        self.seeds = [seed + index for index in range(len(self.prompts))]
        """One seed per image, all different."""
        self._reader, self._scorers = reader, scorers

    def baseline(self, untreated: Images) -> Baseline:
        """Measure the untreated generator's images of `prompts` and `seeds`, in that order."""
        return Baseline(
            images=untreated,
            detail=detail_energy(untreated),
            diversity=diversity(untreated, self.config.seeds),
            attributes=self._attributes(untreated),
            scores={name: (float(s.mean()), float(s.std())) for name, s in self._scores(untreated).items()},
        )

    def check(self, baseline: Baseline, images: Images, norm: float | None = None) -> Reading:
        """Measure images of the same prompts and seeds, and compare with the limits. `norm` is the mean
        log ‖v‖/‖v_ref‖ of the generator that drew them, where the settings limit it."""
        values = {
            "change": mean_change(baseline.images, images),
            "detail": ratio(detail_energy(images), baseline.detail),
            "diversity": ratio(diversity(images, self.config.seeds), baseline.diversity),
        }
        limits: dict[str, Limits] = {name: getattr(self.config, name) for name in values}
        if norm is not None and self.config.norm is not None:
            values["norm"], limits["norm"] = norm, self.config.norm
        attributes = self._attributes(images)
        if attributes is not None and baseline.attributes is not None:
            values["attributes"] = attributes - baseline.attributes
            limits["attributes"] = self.config.attributes
        for name, scores in self._scores(images).items():
            mean, deviation = baseline.scores[name]
            values[f"scorer {name}"] = (float(scores.mean()) - mean) / max(deviation, 1e-6)
            limits[f"scorer {name}"] = self.config.scorers
        return Reading(values=values, breaches=describe_breaches(values, limits))

    def _attributes(self, images: Images) -> float | None:
        return None if self._reader is None else float(np.mean(self._reader.match(images, self.prompts)))

    def _scores(self, images: Images) -> dict[str, NDArray[np.floating]]:
        return {scorer.name: np.asarray(scorer.score(images, self.prompts)) for scorer in self._scorers}


def describe_breaches(values: dict[str, float], limits: dict[str, Limits]) -> tuple[str, ...]:
    """A message for every value outside its limits; NaN is outside."""
    return tuple(
        f"{name} {value:.3g} is outside {limits[name][0]:g}…{limits[name][1]:g}"
        for name, value in values.items()
        if not limits[name][0] <= value <= limits[name][1]
    )


def mean_change(before: Images, after: Images) -> float:
    """Mean absolute difference of images in [0, 1], pair by pair."""
    return float(np.abs(before.astype(np.float32) - after.astype(np.float32)).mean() / 255)


def detail_energy(images: Images) -> float:
    """Laplacian energy: mean absolute four-neighbour Laplacian of the grey images in [0, 1]."""
    grey = images.mean(axis=-1, dtype=np.float32) / 255
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return float(np.abs(4 * inner - around).mean())


def diversity(images: Images, seeds: int) -> float:
    """Mean root-mean-square distance between images of one prompt, of which `seeds` are consecutive."""
    groups = images.reshape(-1, seeds, *images.shape[1:]).astype(np.float32) / 255
    first, second = np.triu_indices(seeds, k=1)
    squared = (groups[:, first] - groups[:, second]) ** 2
    return float(np.sqrt(squared.mean(axis=(2, 3, 4))).mean())


def ratio(after: float, before: float) -> float:
    """after / before; 1 where both are 0."""
    return (after + 1e-9) / (before + 1e-9)
