"""How the images depend on the time of correction, on TTC's settings and on the number of steps; curves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.quality.distances import compute_features, precision_recall
from dataengine.treatment.guided_sampling.config import CorrectionConfig
from tests.bench.guided_sampling import (
    MOMENTS,
    SAMPLING,
    Generator,
    ImageRow,
    Steering,
    generate_row,
    kid_by_fold,
)
from tests.bench.harness import Figure, bootstrap, curve, figure, full, mean, quick
from tests.bench.treatment_rows import FLAWED, ClinicModels, paired_ratio

STEPS = (10, 20) if quick() else (10, 20, 50, 100, 250, 1000) if full() else (10, 25, 100)
"""Numbers of function evaluations."""
FEW = 4 if quick() else 50 if full() else 24
"""Images generated for each number of steps."""
SETTINGS: dict[str, dict[str, Any]] = {
    "reverse_2": {"reverse_step": 2},
    "reverse_3": {"reverse_step": 3},
    "eta_half": {"correct_eta": 0.5},
    "eta_half_alone": {"correct_eta": 0.5, "cover": 1e-9},
} | (
    {
        "reverse_4": {"reverse_step": 4},
        "eta_one": {"correct_eta": 1.0},
        "eta_one_alone": {"correct_eta": 1.0, "cover": 1e-9},
    }
    if full()
    else {}
)
"""TTC's two settings; "alone" corrects no region, so that η's noise is all that it adds."""


def moment_figures(
    clinic: ClinicModels,
    none: ImageRow,
    name: str,
    folder: str,
    config: CorrectionConfig,
    steer: Callable[[CorrectionConfig], Steering],
) -> list[Figure]:
    """A single correction at other T_c: the judge's frequency, KID, precision and recall against none.

    `folder` is where the images by `config` itself are kept.
    """
    changes: dict[str, dict[str, Any]] = {}
    for moment in MOMENTS:
        # Two frames lie before T_c.
        window = {"stop": moment, "start": max(config.dynamics.start, round(moment + 0.2, 2))}
        changes[f"at_{moment:g}"] = {"dynamics": config.dynamics.model_copy(update=window)}
    figures, table = changed_figures(clinic, none, name, folder, config, changes, steer)
    names = ("moment", "frequency_ratio", "kid", "precision", "recall")
    rows = [(moment, *row) for moment, row in zip(MOMENTS, table, strict=True)]
    kept = curve(f"trainingfree-moment-{name}", dict(zip(names, zip(*rows, strict=True), strict=True)))
    best = min(rows, key=lambda row: row[1])
    note = f"T_c / T of the lowest frequency, {best[1]:.3f}; curves in {kept}"
    return [*figures, figure(f"best_moment_{name}", best[0], None, "share", len(none.images), note)]


def setting_figures(
    clinic: ClinicModels,
    none: ImageRow,
    folder: str,
    config: CorrectionConfig,
    steer: Callable[[CorrectionConfig], Steering],
) -> list[Figure]:
    """TTC's `reverse_step` and `correct_eta`, one at a time, against none."""
    figures, table = changed_figures(
        clinic, none, "ttc", folder, config, {"as_default": {}} | SETTINGS, steer
    )
    names = ("setting", "frequency_ratio", "kid", "precision", "recall")
    rows = [(name, *row) for name, row in zip(["default", *SETTINGS], table, strict=True)]
    curve("trainingfree-ttc-settings", dict(zip(names, zip(*rows, strict=True), strict=True)))
    return figures


def changed_figures(
    clinic: ClinicModels,
    none: ImageRow,
    name: str,
    folder: str,
    config: CorrectionConfig,
    changes: Mapping[str, Mapping[str, Any]],
    steer: Callable[[CorrectionConfig], Steering],
) -> tuple[list[Figure], list[tuple[float, float, float, float]]]:
    """Each change of a correction against none; and (frequency ratio, KID, precision, recall) of each."""
    count, base = min(len(none.images), 300), Generator(clinic.flux)
    real = compute_features(
        render(stream("photos"), range(count)).images.permute(0, 2, 3, 1).numpy(), clinic.features
    )
    plain = compute_features(none.images[:count], clinic.features)
    kid, covered = kid_by_fold(real, plain), np.array(precision_recall(real, plain))
    figures, table = [], []
    for row, change in changes.items():
        changed = config.model_copy(update=change)
        place = folder if changed == config else f"{folder}-{row.replace('_', '-')}"
        other = generate_row(clinic, place, base, SAMPLING["flux"], "evaluation", count, steer(changed))
        vectors = compute_features(other.images, clinic.features)
        gap = kid_by_fold(real, vectors) - kid
        precision, recall = np.array(precision_recall(real, vectors)) - covered
        low, high = bootstrap(gap)
        note = (
            f"KID {gap.mean():+.4f} ({low:+.4f} to {high:+.4f}), precision {precision:+.3f}, recall "
            f"{recall:+.3f}, against none"
        )
        figures.append(paired_ratio(f"true_freq_{name}_{row}", other.flawed, none.flawed[:count], note))
        table.append((float(figures[-1].value), float(gap.mean()), float(precision), float(recall)))
    return figures, table


def step_figures(clinic: ClinicModels, name: str, base: Path, config: DynamicsConfig) -> list[Figure]:
    """Do regions persist with more steps (ASCED, Sec. 7.1)? By the overlap with those of the most steps, less
    that of other images' regions."""
    regions, judged, rows, frequencies = {}, {}, [], {}
    for steps in STEPS:
        sampling = SAMPLING[name].model_copy(update={"steps": steps})
        made = generate_row(
            clinic,
            f"steps-{name}-{steps}",
            Generator(base),
            sampling,
            "evaluation",
            FEW,
            recorded={"released": config},
        )
        regions[steps] = made.extras["released|map"] >= 128
        judged[steps] = made.judged >= round(255 * FLAWED)
        frequencies[steps] = float(made.flawed.mean())
    figures = []
    for steps in STEPS[:-1]:
        same, chance = (overlaps(regions[steps], np.roll(regions[STEPS[-1]], shift, 0)) for shift in (0, 1))
        flaw, by_chance = (overlaps(judged[steps], np.roll(judged[STEPS[-1]], shift, 0)) for shift in (0, 1))
        # An image without regions in both has no overlap, and is left out.
        for what, own, other in (("regions", same, chance), ("flaws", flaw, by_chance)):
            if np.isnan(own).all() or np.isnan(other).all():
                continue
            note = f"with {STEPS[-1]} steps, less {np.nanmean(other):.3f} between different images"
            above = own[~np.isnan(own)] - np.nanmean(other)
            figures.append(mean(f"{what}_persist_{name}_{steps}", above, "IoU", note))
        rows.append((steps, np.nanmean(same), np.nanmean(chance), np.nanmean(flaw), frequencies[steps]))
    names = ("steps", "overlap", "chance", "flaw_overlap", "frequency")
    kept = curve(f"trainingfree-steps-{name}", dict(zip(names, zip(*rows, strict=True), strict=True)))
    note = ", ".join(f"{frequencies[steps]:.2f} by {steps}" for steps in STEPS)
    note = f"flawed by the judge: {note} steps; curve in {kept}"
    return [*figures, figure(f"frequency_most_steps_{name}", frequencies[STEPS[-1]], n=FEW, note=note)]


def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of bool masks NHW, pair by pair; NaN where there is nothing in both."""
    union = (first | second).sum((1, 2))
    shared = (first & second).sum((1, 2))
    return np.divide(shared, union, out=np.full(len(union), np.nan), where=union > 0)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean intersection over union of bool masks NHW, over pairs in which there is anything."""
    found = overlaps(first, second)
    return 0.0 if np.isnan(found).all() else float(np.nanmean(found))
