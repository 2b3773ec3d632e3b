"""A detector from random weights, trained on injected artifacts and clean images alone."""

from dataclasses import dataclass

import numpy as np

from dataengine.clinic.config import FIRST_POINT
from dataengine.clinic.world import CATEGORIES
from dataengine.diagnosis.dataset import MemorySamples
from dataengine.diagnosis.detector import load_detector
from dataengine.diagnosis.evaluation import find_operating_point
from dataengine.injection.config import InjectionConfig
from dataengine.records import OperatingPoint
from tests.bench import regime_data as data
from tests.bench.harness import Figure, share
from tests.bench.regime_data import Pool
from tests.bench.regime_measures import ap_ratio, pixel_ap
from tests.bench.regime_training import Clean, Injected, Measured, Training, first_detector, measured
from tests.bench.regimes_labels import seeds_of_run

HELD_OUT = 100_000
"""First index of the clean images that no detector learned from."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of data and training."""

    injected: int = 2000
    clean: int = 1000
    steps: int = 1200
    validation: int = 300
    benchmark: int = 400


SMALL = Sizes(24, 12, 2, 24, 16)


def training(sizes: Sizes, seed: int) -> Training:
    """From random weights; six tenths of a batch are injected artifacts."""
    return Training(
        "injected",
        (Injected(sizes.injected, InjectionConfig(seed=seed), seed), Clean(sizes.clean, seed)),
        sizes.steps,
        fresh=True,
        mixture=(("injected", 0.6), ("real", 0.4)),
        seed=seed,
    )


def trainings(quick: bool) -> list[Training]:
    """All that this part measures."""
    return [training(SMALL if quick else Sizes(), seed) for seed in seeds_of_run()]


def figures(quick: bool) -> list[Figure]:
    """Pixel AP over the first detector's, and the misses at the operating point."""
    sizes, seeds = (SMALL if quick else Sizes()), seeds_of_run()
    pool, name = data.benchmark(sizes.benchmark), "benchmark-standard"
    detectors = [training(sizes, seed).trained() for seed in seeds]
    ours = [measured(detector, name, pool) for detector in detectors]
    first = [measured(first_detector(), name, pool)] * len(seeds)
    note = f"goal ≥ 1; pixel AP {pixel_ap(first):.3f} → {pixel_ap(ours):.3f}"
    found = [ap_ratio("injected_ap_ratio", first, ours, note)]
    labelled = data.validation(sizes.validation)
    injected = _with_clean(sizes)
    points = {
        "injected": [_point(detector, injected) for detector in detectors],
        "validation": [_point(detector, labelled) for detector in detectors],
    }
    for of, chosen in points.items():
        at = [
            measured(detector, name, pool, point.component)
            for detector, point in zip(detectors, chosen, strict=True)
        ]
        words = ", ".join(f"{point.flagged:.3f}/{point.component:.3f}" for point in chosen)
        goal = "goal ≤ 0.3; " if of == "injected" else ""
        id = "injected_miss" if of == "injected" else "injected_miss_labelled"
        where = "held-out injected artifacts" if of == "injected" else "labelled validation images"
        found += _at_point(id, at, chosen, f"{goal}point {words} chosen on {where}")
    shipped = [measured(first_detector(), name, pool, FIRST_POINT.component)]
    found += _at_point("first_miss", shipped, [FIRST_POINT], "the first detector at its own point")
    return found


def _with_clean(sizes: Sizes) -> Pool:
    """Held-out clean images, and as many with an injected artifact."""
    half = sizes.validation // 2
    flawed = data.injected_pool(half, 0, InjectionConfig(), HELD_OUT)
    clean = data.drawn("photos", half, HELD_OUT, categories=CATEGORIES, flawed=0.0)
    return Pool(
        np.concatenate([flawed.images, clean.images]),
        np.concatenate([flawed.masks, clean.masks]),
        flawed.categories + clean.categories,
    )


def _point(detector: object, pool: Pool) -> OperatingPoint:
    return find_operating_point(load_detector(detector), MemorySamples(pool.samples("true")))


def _at_point(
    id: str, at: list[Measured], points: list[OperatingPoint], note: str
) -> tuple[Figure, Figure, Figure]:
    """Flawed images without a hit, those not flagged, and correct images flagged."""
    hits = np.concatenate([each["hit"][each["flawed"]] for each in at])
    flagged = [each["max"] >= point.flagged for each, point in zip(at, points, strict=True)]
    unseen = np.concatenate([~f[each["flawed"]] for f, each in zip(flagged, at, strict=True)])
    alarms = np.concatenate([f[~each["flawed"]] for f, each in zip(flagged, at, strict=True)])
    return (
        share(id, int((~hits).sum()), len(hits), f"flawed images without a pixel on the flaw; {note}"),
        share(f"{id}_unflagged", int(unseen.sum()), len(unseen), "flawed images that are not flagged"),
        share(f"{id}_alarms", int(alarms.sum()), len(alarms), "correct images that are flagged"),
    )
