"""The objectives of treatment side by side: at equal processor time, at equal true gain, and the best of all.

Rows differ in their objective alone. Row and update are chosen on validation prompts by the teacher, and the
judge, whom nothing was trained against or chosen by, decides on other prompts; the treating detector's own
figure stands beside its. `NFT` needs no gradient through decoder and detector, whose memory is compared for
FLUX.1-schnell's dimensions on tensors without data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dataengine.clinic.oracles import load_teacher
from dataengine.clinic.parts import materialise
from dataengine.clinic.world import prompts
from dataengine.diagnosis.detector import NetworkDetector
from dataengine.treatment.config import NftConfig, NormConfig, PixelConfig, TreatmentConfig
from dataengine.treatment.sampling.sampler import as_tensor
from dataengine.treatment.tuning.estimate import estimate, fake_tensors
from tests.bench.gpu_networks import PLANS, TINY, TRUE, Dimensions, outline, settings
from tests.bench.harness import Figure, bootstrap, curve, device, figure, quick
from tests.bench.treatment_preference import objective_rows, preference_pairs
from tests.bench.treatment_rows import (
    FLAWED,
    KEEPER,
    SIZES,
    ClinicModels,
    ScoredImages,
    TreatmentRun,
    generate_and_score,
    guard_reading,
    paired_ratio,
    row_figures,
    run_treatment,
    similarity_to_base,
)

CHOICE = "objectives-validation"
CHOSEN_ON = 2 if quick() else 50
"""Prompts that row and update are chosen on, other than the judged ones."""
LOST, DIVERSITY = -0.02, 0.95
"""Least change of the attributes and least diversity of a point that may be chosen."""
NO_PIXELS = PixelConfig(weight=0.0)
GROUP = 2 if quick() else 4
NFT = NftConfig(group=GROUP, times=2)


def rows(plan: TreatmentConfig) -> dict[str, TreatmentConfig]:
    """The rows by name."""
    plain = NFT.model_copy(update={"cells": False})
    return {
        "all": plan,
        "nft_plain": plan.model_copy(update={"pixel": NO_PIXELS, "nft": plain}),
        "nft_cells": plan.model_copy(update={"pixel": NO_PIXELS, "nft": NFT}),
        "nft_cells_norm": plan.model_copy(update={"pixel": NO_PIXELS, "nft": NFT, "norm": NormConfig()}),
    } | objective_rows()


LONGER: Mapping[str, int] = {}
"""Rows that run this many times longer than the others, to choose the best of all; none of their figures is
one at equal time."""


@dataclass(frozen=True)
class Chooser:
    """What choices are made by: the teacher's view of the validation prompts."""

    clinic: ClinicModels
    config: TreatmentConfig

    @cached_property
    def teacher(self) -> NetworkDetector:
        return load_teacher(materialise("teacher", KEEPER.folder("clinic/teacher"))).to(device())

    def images(self, base: Path, lora: Path | None) -> ScoredImages:
        return generate_and_score(self.clinic, base, lora, CHOICE, self.config)

    @torch.no_grad()
    def highest(self, shown: ScoredImages) -> np.ndarray:
        """The teacher's highest confidence in each image."""
        parts = as_tensor(shown.images).to(device()).split(32)
        return torch.cat([self.teacher.confidence(part).flatten(1).amax(1) for part in parts]).cpu().numpy()


@dataclass(frozen=True)
class Point:
    """A row at an update, on the validation prompts; ratios and differences to the base."""

    row: str
    update: int
    processor: float
    frequency: float
    """True frequency by the teacher."""
    detector: float
    """Mean confidence of the treating detector."""
    attributes: float
    diversity: float
    ssim: float
    feature_distance: float

    @property
    def allowed(self) -> bool:
        return self.attributes >= LOST and self.diversity >= DIVERSITY


def objective_figures(clinic: ClinicModels, plan: TreatmentConfig) -> list[Figure]:
    """All rows, each for the processor time of `all`, and the best point of them."""
    clinic.asked[CHOICE] = prompts("validation", CHOSEN_ON)
    chooser, configs = Chooser(clinic, plan), rows(plan)
    runs = {name: run_for(clinic, name, config, configs["all"]) for name, config in configs.items()}
    points = [point for run in runs.values() for point in points_of(chooser, run)]
    figures = [best(clinic, plan, runs, points), *at_equal_gain(points, list(runs))]
    for name, run in runs.items():
        figures += row_figures(clinic, run, configs[name])
        figures += forgetting(clinic, plan, run)
        figures.append(figure(f"{name}_processor_s", run.processor, unit="s", note="of an update"))
    return figures


def run_for(
    clinic: ClinicModels, name: str, config: TreatmentConfig, reference: TreatmentConfig
) -> TreatmentRun:
    """A row for as much processor time as the reference takes for all its updates, or so many times more."""
    first = run_treatment(clinic, "all", reference)
    budget = first.processor * SIZES.updates * LONGER.get(name, 1)
    if name == "all":
        return first
    pairs = preference_pairs(clinic) if config.preference else None
    begun = run_treatment(clinic, name, config, updates=SIZES.every, pairs=pairs)
    pieces = max(1, round(budget / begun.processor / SIZES.every)) if begun.processor else 1
    updates = SIZES.every * (1 if quick() else pieces)
    return run_treatment(clinic, name, config, updates=updates, pairs=pairs)


def points_of(chooser: Chooser, run: TreatmentRun) -> list[Point]:
    clinic = chooser.clinic
    before = chooser.images(run.base, None)
    broken = max((chooser.highest(before) >= FLAWED).mean(), 1e-9)
    found = []
    for update, lora in run.points.items():
        after = chooser.images(run.base, lora)
        values = guard_reading(clinic, before, after, CHOICE).values
        alike = similarity_to_base(clinic, before, after)
        found.append(
            Point(
                row=run.name,
                update=update,
                processor=update * run.processor,
                frequency=float((chooser.highest(after) >= FLAWED).mean() / broken),
                detector=float(after.mean.mean() / before.mean.mean()),
                attributes=values["attributes"],
                diversity=values["diversity"],
                ssim=float(alike["ssim"].mean()),
                feature_distance=float(alike["feature_distance"].mean()),
            )
        )
    return found


def best(
    clinic: ClinicModels, plan: TreatmentConfig, runs: Mapping[str, TreatmentRun], points: list[Point]
) -> Figure:
    """The judge's figure of the point with the lowest true frequency by the teacher among those allowed."""
    allowed = [point for point in points if point.allowed] or points
    chosen = min(allowed, key=lambda point: (point.frequency, point.detector))
    run = runs[chosen.row]
    before, after = (
        generate_and_score(clinic, run.base, lora, "judged", plan)
        for lora in (None, run.points[chosen.update])
    )
    reading = guard_reading(clinic, before, after, "judged").values
    note = (
        f"{chosen.row} at update {chosen.update}, chosen by the teacher on {CHOSEN_ON} validation prompts "
        f"({chosen.frequency:.2f}); attributes {reading['attributes']:+.3f}, diversity "
        f"{reading['diversity']:.3f}, the treating detector's mean confidence "
        f"{after.mean.mean() / before.mean.mean():.3f}; goal ≤ 0.45, interval below 0.54"
    )
    return paired_ratio("best_objective", after.judged >= FLAWED, before.judged >= FLAWED, note)


def at_equal_gain(points: list[Point], names: list[str]) -> list[Figure]:
    """What each row paid when its true frequency first fell as far as the row's that fell least, interpolated
    over updates, on validation prompts by the teacher."""
    table: dict[str, list[object]] = {name: [] for name in Point.__dataclass_fields__}
    for point in points:
        for column, values in table.items():
            values.append(getattr(point, column))
    file = curve("treatment-objectives", table)
    common = max(min(point.frequency for point in points if point.row == name) for name in names)
    figures = [
        figure("equal_gain", common, unit="ratio", n=CHOSEN_ON * SIZES.seeds, note=f"points in {file}")
    ]
    if common >= 1:
        return figures
    nothing = {"processor": 0.0, "attributes": 0.0, "diversity": 1.0, "ssim": 1.0, "feature_distance": 0.0}
    for name in names:
        path = [point for point in points if point.row == name]
        for column, start in nothing.items():
            gains = [1.0, *(point.frequency for point in path)]
            paid = [start, *(getattr(point, column) for point in path)]
            value = crossed(common, gains, paid)
            note = f"when the true frequency by the teacher first fell to {common:.3f}"
            figures.append(figure(f"{name}_equal_gain_{column}", value, n=len(path), note=note))
    return figures


def crossed(level: float, falling: list[float], paid: list[float]) -> float:
    """What was paid when the first series first fell to this level, linear between its points."""
    for low, high, at, after in zip(falling, falling[1:], paid, paid[1:], strict=False):
        if high <= level:
            return at + (after - at) * (low - level) / max(low - high, 1e-12)
    return paid[-1]


def forgetting(clinic: ClinicModels, plan: TreatmentConfig, run: TreatmentRun) -> list[Figure]:
    """Share of the attributes that is lost at the last update, by category, on held-out prompts."""
    before, after = (
        generate_and_score(clinic, run.base, lora, "judged", plan) for lora in (None, run.points[run.last])
    )
    found = []
    for category in np.unique(before.categories):
        chosen = before.categories == category
        lost = before.right[chosen] - after.right[chosen]
        found.append(
            figure(
                f"{run.name}_lost_{category}", float(lost.mean()), bootstrap(lost), "share", int(chosen.sum())
            )
        )
    return found


def memory_figures(dimensions: Dimensions | None = None) -> list[Figure]:
    """Peak bytes beside the weights of an update at 1024²: NFT over the pixel loss with K = 1, both with
    checkpointing and the fewest images that they can do with, two of a group against one."""
    dimensions = dimensions or (TINY if quick() else TRUE)
    plan = next(each for each in PLANS if each.name == "flux_1024")
    pixel = settings(plan, dimensions)
    nft = pixel.model_copy(update={"batch": 2, "pixel": NO_PIXELS, "nft": NftConfig(group=2)})
    one, other = (activations(config, dimensions) for config in (nft, pixel))
    note = (
        f"PREDICTED without data: {one / 1e9:.2f} against {other / 1e9:.2f} GB, checkpointing, two "
        "images a group against one; goal ≤ 0.5"
    )
    return [figure("nft_memory_ratio", one / other, unit="ratio", note=note)]


def activations(config: TreatmentConfig, dimensions: Dimensions) -> int:
    """Peak bytes of an update beside the weights."""
    with fake_tensors():
        detector = NetworkDetector.fresh(dimensions.detector).eval().requires_grad_(False)
        return estimate(config, outline(dimensions), detector).activations_bytes
