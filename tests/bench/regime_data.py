"""What `make bench-regimes` learns from and measures on: drawings of the embedded clinic with exact masks,
and labels with the errors of two annotators.

Two worlds on the same scenes: "standard", and "small" with flaws of 1 to 3 % of the image. Images are the
drawings themselves, without the generator's decoder: its pass over some thousands of images would cost more
than the trainings. Uses of the world are disjoint, so that no detector is measured on what it learned from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dataengine.clinic.parts import fingerprint
from dataengine.clinic.world import CATEGORIES, HARD, WORLD_VERSION, stream
from dataengine.diagnosis.dataset import Sample
from dataengine.errors import InputRefused
from dataengine.injection.config import InjectionConfig
from dataengine.injection.inject import Injection, inject
from dataengine.records import SampleKind
from pipelines.config import HumanErrorConfig
from pipelines.demo.data import FLAWED
from pipelines.demo.simulated_annotators import with_human_error
from tests.bench.harness import Keeper

KEEPER = Keeper(
    "regimes",
    modules=("tests.bench.regime_training",),
    settings={"world": WORLD_VERSION},
    weights={"first_doctor": fingerprint("first_doctor")},
)
"""Images, detectors and their metrics, for `bench-regimes`."""

World = Literal["standard", "small"]
Noise = Literal["none", "low", "middle", "high"]

AREAS: dict[World, tuple[float, float] | None] = {"standard": None, "small": (0.01, 0.03)}
"""Share of the image that a flaw's mask covers; None for the world's own flaws."""
ALL = 64 * 64 + 1
"""Area in pixels below which a component may be overlooked: any component."""
NOISES: dict[Noise, HumanErrorConfig] = {
    "none": HumanErrorConfig(jitter=0, missed=0, false_strokes=0),
    "low": HumanErrorConfig(small=ALL, missed=0.15, jitter=0.6, wide=0, false_strokes=0.01),
    "middle": HumanErrorConfig(small=ALL, missed=0.3, jitter=1.2, wide=1, false_strokes=0.02),
    "high": HumanErrorConfig(small=ALL, missed=0.6, jitter=2.4, wide=2, false_strokes=0.04),
}
"""Errors of each of the two annotators."""
ANNOTATORS = 2
INHERITED = dict.fromkeys(CATEGORIES, 0.02) | dict.fromkeys(HARD, FLAWED)
"""How often the generator breaks each category."""
UNLABELLED_FROM = 50_000
"""First index of the images for pseudo-labels, far from those that labels are chosen from."""


@dataclass(frozen=True)
class Pool:
    """Images with their exact truth."""

    images: np.ndarray
    """uint8 NHW3."""
    masks: np.ndarray
    """bool NHW."""
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> "Pool":
        """Those at `indices`, in that order."""
        chosen = list(indices)
        return Pool(self.images[chosen], self.masks[chosen], tuple(self.categories[i] for i in chosen))

    def samples(
        self,
        kind: SampleKind,
        targets: Sequence[np.ndarray] | None = None,
        maximums: Sequence[float] | None = None,
    ) -> list[Sample]:
        """Training examples; `targets` replace the exact truth, `maximums` decide on dynamic shrink."""
        return [
            Sample(
                image=self.images[i],
                target=np.asarray(self.masks[i] if targets is None else targets[i], np.float32),
                kind=kind,
                category=self.categories[i],
                max_confidence=0.0 if maximums is None else float(maximums[i]),
            )
            for i in range(len(self))
        ]


def drawn(
    use: str,
    count: int,
    first: int = 0,
    world: World = "standard",
    categories: Sequence[str] = HARD,
    flawed: float | Mapping[str, float] = INHERITED,
) -> Pool:
    """`count` drawings of a use from index `first` on, flawed as often as the generator's; kept."""

    def make() -> dict[str, np.ndarray]:
        drawings = stream(use, flawed, categories, AREAS[world])
        chosen = [drawings[i] for i in range(first, first + count)]
        return {
            "images": np.stack([each.image for each in chosen]),
            "masks": np.stack([each.label_map > 0 for each in chosen]),
            "categories": np.array([each.category for each in chosen]),
        }

    settings = {"categories": tuple(categories), "flawed": flawed}
    kept = KEEPER.arrays(f"data/{use}-{world}-{first}-{count}", make, settings)
    return Pool(kept["images"], kept["masks"], tuple(kept["categories"].tolist()))


def noisy_masks(masks: np.ndarray, noise: Noise, seed: int) -> list[np.ndarray]:
    """Masks bool NHW as two annotators paint them, who take turns and each err by a seed of their own."""
    rngs = [np.random.default_rng([seed, annotator]) for annotator in range(ANNOTATORS)]
    return [with_human_error(mask, NOISES[noise], rngs[row % ANNOTATORS]) for row, mask in enumerate(masks)]


def labelled_pool(count: int, seed: int, world: World = "standard") -> Pool:
    """Images of hard categories that labels are chosen from."""
    return drawn("loop", count, seed * 100_000, world)


def unlabelled_pool(count: int, seed: int, world: World = "standard") -> Pool:
    """Images of hard categories that nobody answered."""
    return drawn("loop", count, UNLABELLED_FROM + seed * 100_000, world)


def clean_pool(count: int, seed: int) -> Pool:
    """Artifact-free images of all categories."""
    return drawn("photos", count, seed * 10_000, categories=CATEGORIES, flawed=0.0)


def validation(count: int, world: World = "standard") -> Pool:
    """What every choice was made on."""
    return drawn("validation", count, 0, world)


def benchmark(count: int, world: World = "standard") -> Pool:
    """The hard benchmark, on which nothing was chosen."""
    return drawn("benchmark", count, 0, world)


def injected_pool(count: int, seed: int, config: InjectionConfig, first: int = 0) -> Pool:
    """Clean images with one injected artifact each; the few in which it could not be seen are left out."""

    def make() -> dict[str, np.ndarray]:
        clean = drawn("photos", count, first + 5_000 + seed * 10_000, categories=CATEGORIES, flawed=0.0)
        made = [
            (injection, category)
            for image, category, name in zip(clean.images, clean.categories, range(count), strict=True)
            if (injection := _injection(image, f"{first + name}", config)) is not None
        ]
        return {
            "images": np.stack([injection.pixels for injection, _ in made]),
            "masks": np.stack([injection.label_map > 0 for injection, _ in made]),
            "categories": np.array([category for _, category in made]),
        }

    kept = KEEPER.arrays(f"data/injected-{seed}-{first}-{count}", make, config)
    return Pool(kept["images"], kept["masks"], tuple(kept["categories"].tolist()))


def _injection(image: np.ndarray, name: str, config: InjectionConfig) -> Injection | None:
    try:
        return inject(image, name, config)
    except InputRefused:
        return None
