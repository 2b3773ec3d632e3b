"""What `make bench-detector` learns from and measures on: drawings of the embedded clinic as the generator's
decoder paints them, kept by `KEEPER`.

Pools are disjoint by stream and index: what a detector trains on, the validation set and the benchmark never
share a scene.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dataengine.clinic.parts import fingerprint, materialise
from dataengine.clinic.world import CATEGORIES, HARD, WORLD_VERSION, Drawing, stream
from dataengine.diagnosis.dataset import MemorySamples, Sample
from dataengine.records import SampleKind
from pipelines.demo.data import FLAWED, earlier_data, round_trip
from tests.bench.harness import Keeper

KEEPER = Keeper(
    "detector",
    modules=("tests.bench.detector",),
    settings={"world": WORLD_VERSION},
    weights={name: fingerprint(name) for name in ("autoencoder", "first_doctor", "flux")},
)
"""Images, detectors and their metrics, for `bench-detector`."""
INHERITED = dict.fromkeys(CATEGORIES, 0.02) | dict.fromkeys(HARD, FLAWED)
"""How often the generator breaks each category."""
CHUNK = 500


@dataclass(frozen=True)
class Pool:
    """Images with their exact truth."""

    images: np.ndarray
    """uint8 NHW3."""
    label_maps: np.ndarray
    """uint8 NHW."""
    categories: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Sequence[int]) -> "Pool":
        """Those at `indices`, in that order."""
        chosen = list(indices)
        return Pool(self.images[chosen], self.label_maps[chosen], tuple(self.categories[i] for i in chosen))

    def samples(
        self,
        kind: SampleKind,
        maximums: Sequence[float] | None = None,
        targets: Sequence[np.ndarray] | None = None,
    ) -> list[Sample]:
        """Training examples; `maximums` decide on dynamic shrink, `targets` replace the exact truth."""
        return [
            Sample(
                image=self.images[i],
                target=(self.label_maps[i] > 0).astype(np.float32) if targets is None else targets[i],
                kind=kind,
                category=self.categories[i],
                max_confidence=0.0 if maximums is None else float(maximums[i]),
                label_map=self.label_maps[i] if targets is None else None,
            )
            for i in range(len(self))
        ]


def joined(*pools: Pool) -> Pool:
    """One after the other."""
    return Pool(
        np.concatenate([pool.images for pool in pools]),
        np.concatenate([pool.label_maps for pool in pools]),
        tuple(category for pool in pools for category in pool.categories),
    )


def generated(use: str, count: int, first: int = 0, categories: Sequence[str] = CATEGORIES) -> Pool:
    """Images of a use from index `first` on, flawed as often as the generator's, passed through its
    decoder."""
    return joined(*(chunk(use, start, stop, categories) for start, stop in spans(count, first)))


def spans(count: int, first: int = 0) -> list[tuple[int, int]]:
    """The parts in which a pool is generated and cached, so that several can be generated at a time."""
    return [(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]


def chunk(use: str, start: int, stop: int, categories: Sequence[str] = CATEGORIES) -> Pool:
    """One part of `generated`."""

    def draw() -> Pool:
        drawings = stream(use, INHERITED, categories)
        return _pool(round_trip([drawings[i] for i in range(start, stop)]))

    return cached(f"{use}-{'-'.join(categories)}-{start}-{stop}", draw)


def photos(count: int, first: int = 0) -> Pool:
    """Artifact-free images, every second one through the decoder: "photos" and clean generated images."""

    def draw() -> Pool:
        drawings = stream("photos")
        plain = [drawings[i] for i in range(first, first + count, 2)]
        painted = round_trip([drawings[i] for i in range(first + 1, first + count, 2)])
        return _pool([*plain, *painted])

    return cached(f"photos-{first}-{count}", draw)


def previous(count: int) -> Pool:
    """The first detector's training data, with the labels of earlier annotators, errors included."""
    return cached(f"previous-{count}", lambda: _pool(earlier_data(count)))


def benchmark_clean(count: int, categories: Sequence[str] = CATEGORIES) -> Pool:
    """Held-out artifact-free images, half of them through the decoder."""

    def draw() -> Pool:
        drawings = stream("benchmark", flawed=0.0, categories=categories)
        chosen = [drawings[i] for i in range(100_000, 100_000 + count)]
        return _pool([*chosen[::2], *round_trip(chosen[1::2])])

    return cached(f"benchmark-clean-{'-'.join(categories)}-{count}", draw)


@cache
def first_doctor() -> Path:
    """The shipped detector, as the demo gets it."""
    return materialise("first_doctor", KEEPER.folder("first-doctor"))


def survey(count: int, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """`count` images of each category generated by the tiny FLUX, and the category of each prompt."""
    from dataengine.clinic.world import prompts
    from dataengine.treatment.config import SamplingConfig
    from dataengine.treatment.families.loading import load_family
    from dataengine.treatment.sampling.sampler import generate

    asked = prompts("generation", count * len(CATEGORIES))

    def draw() -> Pool:
        family = load_family(str(materialise("flux", KEEPER.folder("flux"))))
        seeds = [seed * 1_000_000 + i for i in range(len(asked))]
        images = generate(family, [prompt.text for prompt in asked], seeds, SamplingConfig(steps=5, batch=16))
        return Pool(images, np.zeros(images.shape[:3], np.uint8), tuple(prompt.category for prompt in asked))

    pool = cached(f"survey-{count}-{seed}", draw)
    return pool.images, pool.categories


def cached(name: str, draw: Callable[[], Pool]) -> Pool:
    """The pool of that name, generated once."""

    def make() -> dict[str, np.ndarray]:
        pool = draw()
        categories = np.array(pool.categories)
        return {"images": pool.images, "label_maps": pool.label_maps, "categories": categories}

    kept = KEEPER.arrays(f"data/{name}", make)
    return Pool(kept["images"], kept["label_maps"], tuple(kept["categories"].tolist()))


def memory(*parts: Sequence[Sample]) -> MemorySamples:
    """One training set of several sources."""
    return MemorySamples([sample for part in parts for sample in part])


def _pool(drawings: Sequence[Drawing]) -> Pool:
    return Pool(
        np.stack([drawing.image for drawing in drawings]),
        np.stack([drawing.label_map for drawing in drawings]),
        tuple(drawing.category for drawing in drawings),
    )
