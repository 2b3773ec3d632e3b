"""`make bench-photo`: what ImageNet weights are worth to a detector of artifacts injected into photographs.

Two detectors of equal updates on the same batches, one with the pre-trained encoder and one with random
weights, for two seeds; both are measured on held-out photographs, and each has its operating point from
validation. The generated images that lie beside the photographs are shown to the first pre-trained one, as
a figure and as the contact sheet `build/bench/photo-generated.jpg`. `QUICK=1` trains for a few updates.
"""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataengine.diagnosis.config import OperatingPointConfig
from dataengine.diagnosis.detector import artifact_maps, load_detector
from dataengine.diagnosis.image_metrics import ANY_CLASS, ImageMetrics, image_metrics
from dataengine.diagnosis.operating_point import choose_operating_point
from dataengine.diagnosis.ranking import average_precision
from dataengine.diagnosis.training import train_detector
from dataengine.images import recompress
from dataengine.statistics import Interval, bootstrap_weights, percentile_interval, wilson
from pipelines.recipes import photo_detector
from tests.bench.contact_sheet import contact_sheet
from tests.bench.harness import RESULTS, Figure, Keeper, figure, full, quick, write
from tests.bench.photo_data import (
    SEEN,
    SIDE,
    UNSEEN,
    Injected,
    generated_images,
    held_out,
    imagenet_weights,
    photographs,
)

STARTS = ("pretrained", "random")
SEEDS = (0, 1)
UPDATES = 700
VARIANTS = 30
CLEAN = 0.4
FALSE_ALARMS = 0.05
QUALITY = 75
KEEPER = Keeper("photo", modules=("tests.bench.photo",), settings={"updates": UPDATES, "side": SIDE})
POINT = OperatingPointConfig(rule="recall_at", false_alarm=FALSE_ALARMS)


@dataclass(frozen=True)
class Measured:
    """A detector's metrics on the held-out images, and its operating point."""

    seen: list[ImageMetrics]
    unseen: list[ImageMetrics]
    clean: list[ImageMetrics]
    flagged: float
    component: float
    png: np.ndarray
    """Highest confidence of every held-out image, float64."""
    jpeg: np.ndarray
    """The same of the images saved as JPEG."""


def main() -> None:
    """Train, measure and write the figures."""
    seeds = SEEDS[:1] if quick() else (*SEEDS, 2, 3) if full() else SEEDS
    train_side_by_side([(start, seed) for start in STARTS for seed in seeds])
    measured = {start: [measure(start, seed) for seed in seeds] for start in STARTS}
    figures = figures_of(measured)
    if generated := generated_images():
        figures.append(on_generated_images(generated, measured["pretrained"][0], seeds[0]))
    write("photo", figures, list(seeds))


def updates() -> int:
    """Updates of one training."""
    return 4 if quick() else UPDATES


def train_side_by_side(wanted: Sequence[tuple[str, int]]) -> None:
    """Train in as many processes as there are cores, each with one thread: small batches gain little by
    more."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,)) as pool:
        for training in [pool.submit(trained, *each) for each in wanted]:
            training.result()


def trained(start: str, seed: int) -> Path:
    """The folder of a detector, trained or kept."""
    work = KEEPER.folder(f"{start}-{seed}", updates())
    weights = str(imagenet_weights(work)) if start == "pretrained" else ""
    plan = photo_detector(weights, size=SIDE, steps=updates(), seed=seed)
    samples = Injected(tuple(photographs()["train"]), SEEN, VARIANTS, CLEAN, seed=seed)
    return train_detector(plan, samples, None, work / "training").folder


@cache
def measure(start: str, seed: int) -> Measured:
    """A detector on validation, for its operating point, and on the held-out photographs."""
    detector = load_detector(trained(start, seed))

    def rows(examples: Injected) -> tuple[list[ImageMetrics], list[Any]]:
        samples = [examples.sample(index) for index in range(len(examples))]
        maps = artifact_maps(detector, [sample.image for sample in samples], 32)
        pairs = zip(samples, maps, strict=True)
        return [
            image_metrics(s.target, q, s.category or "", label_map=s.label_map) for s, q in pairs
        ], samples

    few = 1 if quick() else 3
    point = choose_operating_point(rows(held_out("val", SEEN, 0.5, few))[0], config=POINT)
    clean, clean_samples = rows(held_out("test", SEEN, 1.0, 1))
    seen, seen_samples = rows(held_out("test", SEEN, 0.0, 1))
    unseen, _ = rows(held_out("test", (UNSEEN,), 0.0, 1))
    images = [sample.image for sample in (*clean_samples, *seen_samples)]
    jpeg = artifact_maps(detector, [recompress(image, "JPEG", QUALITY) for image in images], 32)
    return Measured(
        seen=seen,
        unseen=unseen,
        clean=clean,
        flagged=point.flagged,
        component=point.component,
        png=np.array([row.max for row in (*clean, *seen)]),
        jpeg=np.array([float(each.max()) for each in jpeg]),
    )


def figures_of(measured: dict[str, list[Measured]]) -> list[Figure]:
    """All figures, those of the pre-trained detectors and their gain; means over the seeds."""
    ours, theirs = measured["pretrained"], measured["random"]
    gain = [ap(a.seen) - ap(b.seen) for a, b in zip(ours, theirs, strict=True)]
    flagged = [row.max >= one.flagged for one in ours for row in one.clean]
    peaks = [
        (peak, one.component) for one in ours for row in one.seen for peak in row.peaks.get(ANY_CLASS, ())
    ]
    touched = [peak >= component for peak, component in peaks]
    shifts = np.concatenate([np.abs(one.png - one.jpeg) for one in ours])
    by_kind = ", ".join(f"{kind} {kind_ap(ours, kind):.2f}" for kind in SEEN)
    return [
        spread("pretrained_ap_gain", gain, ours[0].seen, "goal ≥ 0.25, interval above 0.1"),
        spread("injected_ap", [ap(one.seen) for one in ours], ours[0].seen, f"goal ≥ 0.6; {by_kind}"),
        spread("random_ap", [ap(one.seen) for one in theirs], theirs[0].seen, "from random weights"),
        rate("clean_flagged", flagged, "goal ≤ 0.08"),
        rate("injected_found", touched, "regions touched; goal ≥ 0.6"),
        spread("unseen_kind_ap", [ap(one.unseen) for one in ours], ours[0].unseen, "goal ≥ 0.35"),
        spread("unseen_kind_ap_random", [ap(one.unseen) for one in theirs], theirs[0].unseen, ""),
        figure("jpeg_shift", shifts.mean(), resampled(shifts), n=len(shifts), note="goal ≤ 0.05"),
    ]


def on_generated_images(images: Sequence[np.ndarray], measured: Measured, seed: int) -> Figure:
    """How many of the generated images are flagged; writes the contact sheet, images above their maps."""
    detector = load_detector(trained("pretrained", seed))
    maps = artifact_maps(detector, list(images), 8)
    flagged = [bool(each.max() >= measured.flagged) for each in maps]
    sheet = contact_sheet(images, [np.clip(each / measured.flagged, 0, 1) for each in maps], 11, 1)
    sheet.save(RESULTS / "photo-generated.jpg", quality=80)
    note = "at the operating point; sheet: photo-generated.jpg, red from nothing to that point"
    return rate("generated_flagged", flagged, note)


def ap(rows: Sequence[ImageMetrics]) -> np.ndarray:
    """Pixel AP of the images (first) and of their resamples, (draws + 1,)."""
    weights = np.vstack([np.ones(len(rows)), bootstrap_weights(len(rows), 500)])
    return average_precision(
        *(weights @ np.array([getattr(r, n) for r in rows]) for n in ("inside", "outside"))
    )


def kind_ap(of: Sequence[Measured], kind: str) -> float:
    """Mean over the seeds of the pixel AP of one kind."""
    return float(np.mean([ap([row for row in one.seen if row.category == kind])[0] for one in of]))


def spread(id: str, by_seed: Sequence[np.ndarray], rows: Sequence[ImageMetrics], note: str) -> Figure:
    """The mean over seeds, with the interval over images: all seeds are measured on the same ones."""
    mean = np.mean(by_seed, axis=0)
    seeds = ", ".join(f"{one[0]:.3f}" for one in by_seed)
    note = "; ".join(each for each in (note, f"by seed {seeds}") if each)
    return figure(id, mean[0], percentile_interval(mean[1:]), n=len(rows), note=note)


def rate(id: str, outcomes: Sequence[bool], note: str) -> Figure:
    """A share with Wilson's interval."""
    return figure(
        id, float(np.mean(outcomes)), wilson(sum(outcomes), len(outcomes)), n=len(outcomes), note=note
    )


def resampled(values: np.ndarray) -> Interval:
    """95 % bootstrap interval of a mean."""
    weights = bootstrap_weights(len(values), 500)
    return percentile_interval(weights @ values / weights.sum(axis=1))


if __name__ == "__main__":
    main()
