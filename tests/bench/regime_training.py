"""The trainings of `make bench-regimes`, as values: each names the examples that it learns from and where it
starts, and is kept under all of that.

Every training starts from the first detector as shipped or from one that did, without that detector's own
data: so stands a team that took a published detector and labelled some images. Only detectors of injected
artifacts start from random weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np

from dataengine.clinic.config import FIRST_POINT
from dataengine.clinic.parts import materialise
from dataengine.curation.config import MiningConfig
from dataengine.curation.mining import MiningCandidate, choose_images, thumbnail_features
from dataengine.diagnosis.config import AugmentationConfig, DetectorTrainingConfig
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.diagnosis.detector import artifact_maps, load_detector, read_config
from dataengine.diagnosis.evaluation import measure_detector
from dataengine.diagnosis.training import RESULT_FILE, train_detector
from dataengine.injection.config import InjectionConfig
from dataengine.records import SampleKind
from pipelines.detectors.predict import mean_uncertainty
from tests.bench import regime_data as data
from tests.bench.regime_data import KEEPER, Noise, Pool, World

BATCH = 64


class Source(Protocol):
    """Where examples come from: a frozen dataclass, whose fields are all that they depend on."""

    def samples(self, teacher: Path) -> list[Sample]:
        """The examples; `teacher` is the detector that the training starts from."""


@dataclass(frozen=True)
class Clean:
    """Artifact-free images."""

    count: int
    seed: int = 0
    source: str = "clean"

    def samples(self, teacher: Path) -> list[Sample]:
        """See `Source.samples`."""
        pool = data.clean_pool(self.count, self.seed)
        return pool.samples("real", maximums=_highest(teacher, pool))


@dataclass(frozen=True)
class Labels:
    """Labels of two annotators on images sampled at random from those of hard categories."""

    count: int
    noise: Noise
    world: World = "standard"
    pool: int = 1200
    seed: int = 0
    source: str = "labels"

    def samples(self, teacher: Path) -> list[Sample]:
        """See `Source.samples`."""
        pool = data.labelled_pool(self.pool, self.seed, self.world)
        # The first labels of 600 are the 30: more labels are never other labels.
        order = np.random.default_rng(self.seed).permutation(len(pool))
        chosen = pool.take(order[: self.count].tolist())
        return chosen.samples("true", data.noisy_masks(chosen.masks, self.noise, self.seed))


@dataclass(frozen=True)
class Pseudo:
    """The teacher's maps of images that nobody answered."""

    count: int
    world: World = "standard"
    seed: int = 0
    source: str = "pseudo"

    def samples(self, teacher: Path) -> list[Sample]:
        """See `Source.samples`."""
        pool = data.unlabelled_pool(self.count, self.seed, self.world)
        maps = artifact_maps(load_detector(teacher), list(pool.images), BATCH)
        return pool.samples("pseudo", maps, [float(map_.max()) for map_ in maps])


@dataclass(frozen=True)
class Mined:
    """Exact labels on images of hard categories that mining chooses with the first detector."""

    config: MiningConfig
    second: "Training"
    """The detector whose difference to the first one is the disagreement."""
    pool: int = 2000
    seed: int = 0
    source: str = "mined"

    def samples(self, teacher: Path) -> list[Sample]:
        """See `Source.samples`."""
        pool = data.labelled_pool(self.pool, self.seed)
        choices = choose_images(_candidates(self.pool, self.seed, self.second), self.config)
        return pool.take([int(choice.image_id) for choice in choices]).samples("true")


@dataclass(frozen=True)
class Injected:
    """Clean images with one injected artifact each."""

    count: int
    config: InjectionConfig
    seed: int = 0
    source: str = "injected"

    def samples(self, teacher: Path) -> list[Sample]:
        """See `Source.samples`."""
        return data.injected_pool(self.count, self.seed, self.config).samples("injected")


@dataclass(frozen=True)
class Training:
    """One detector to train."""

    name: str
    examples: tuple[Source, ...]
    steps: int
    start: "Training | None" = None
    """The training that it continues; None for the first detector."""
    fresh: bool = False
    """From random weights of the first detector's architecture instead."""
    shrink: float = 0.0
    strong: float = 0.0
    mixture: tuple[tuple[SampleKind, float], ...] = ()
    """Shares of the kinds in a batch; empty for the product's defaults."""
    seed: int = 0

    @property
    def work(self) -> Path:
        """Its folder, named by everything that it follows from."""
        return KEEPER.folder(f"trained/{self.name}", self)

    @property
    def folder(self) -> Path:
        """The detector."""
        return self.work / "detector"

    @property
    def config(self) -> DetectorTrainingConfig:
        """The schedule of `bench-detector`, shorter; the same on both sides of every comparison."""
        plain = DetectorTrainingConfig(
            detector=read_config(first_detector()),
            name="regime",
            steps=self.steps,
            batch=16,
            lr=1e-3,
            head_factor=2.0,
            ema=0.99,
            warmup=0.05,
            device="cpu",
            workers=1,
            checkpoint_every=50,
            balance=1.0,
            augmentation=AugmentationConfig(shrink=self.shrink, strong=self.strong),
            seed=self.seed,
        )
        return plain.model_copy(update={"mixture": dict(self.mixture)}) if self.mixture else plain

    def trained(self) -> Path:
        """The folder of the detector, trained if it is not there yet, after what it continues."""
        if (self.work / RESULT_FILE).is_file():
            return self.folder
        start = first_detector() if self.start is None else self.start.trained()
        samples = MemorySamples([sample for part in self.examples for sample in part.samples(start)])
        print(f"{self.name}: {len(samples)} examples, {self.steps} updates", flush=True)
        train_detector(self.config, samples, None if self.fresh else start, self.work)
        return self.folder


@cache
def first_detector() -> Path:
    """The shipped detector, as the demo gets it."""
    return materialise("first_doctor", KEEPER.folder("first-doctor"))


Measured = dict[str, np.ndarray]
KEPT = ("mse", "max", "flawed", "hit", "inside", "outside")
"""What is kept of each image: see `ImageMetrics`."""


def measured(detector: Path, use: str, pool: Pool, threshold: float | None = None) -> Measured:
    """Figures of each image by name, kept; pixels count as predicted from `threshold`, by default 0.5."""
    place = detector.relative_to(KEEPER.place).as_posix().replace("/", "-")
    at = "" if threshold is None else f"-{threshold:.6f}"

    def make() -> Measured:
        given = {} if threshold is None else {"threshold": threshold}
        samples = MemorySamples(pool.samples("true"))
        rows = measure_detector(load_detector(detector), samples, batch=BATCH, **given)
        return {name: np.array([getattr(row, name) for row in rows]) for name in KEPT}

    return KEEPER.arrays(f"measured/{place}-{use}-{len(pool)}{at}", make)


def _highest(detector: Path, pool: Pool) -> list[float]:
    return [float(map_.max()) for map_ in artifact_maps(load_detector(detector), list(pool.images), BATCH)]


def _candidates(count: int, seed: int, second: Training) -> Sequence[MiningCandidate]:
    """The images that labels are chosen from, as mining sees them."""

    def make() -> dict[str, np.ndarray]:
        images = list(data.labelled_pool(count, seed).images)
        maps = artifact_maps(load_detector(first_detector()), images, BATCH)
        others = artifact_maps(load_detector(second.trained()), images, BATCH)
        return {
            "confidence": np.array([map_.max() for map_ in maps]),
            "uncertainty": np.array([mean_uncertainty(map_) for map_ in maps]),
            "disagreement": np.array([np.abs(a - b).mean() for a, b in zip(maps, others, strict=True)]),
        }

    figures = KEEPER.arrays(f"data/candidates-{count}-{seed}", make, second)
    pool = data.labelled_pool(count, seed)
    looks = thumbnail_features(pool.images)
    return [
        MiningCandidate(
            image_id=f"{i:06d}",
            category=pool.categories[i],
            confidence=float(figures["confidence"][i]),
            uncertainty=float(figures["uncertainty"][i]),
            disagreement=float(figures["disagreement"][i]),
            features=looks[i],
            thumbnail=looks[i],
        )
        for i in range(count)
    ]


THRESHOLD = FIRST_POINT.flagged
"""Highest confidence from which an image is a hard case: the first detector's operating point."""
