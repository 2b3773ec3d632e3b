"""How the images depend on the time of correction and, for FULL, on the number of steps; with curves."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.quality.distances import compute_features, precision_recall
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.guided_sampling.config import CorrectionConfig
from tests.bench.guided_sampling import (
    SAMPLING,
    Generator,
    ImageRow,
    Steering,
    generate_row,
    kid_by_fold,
)
from tests.bench.harness import Figure, curve, figure, quick
from tests.bench.treatment_rows import ClinicModels, paired_ratio

MOMENTS = (0.3, 0.48, 0.7) if quick() else (0.3, 0.4, 0.48, 0.6, 0.7)
"""T_c / T, counted from noise = 1."""
STEPS = (10, 20) if quick() else (10, 20, 50, 100, 250, 1000)
"""Numbers of function evaluations."""
FEW = 4 if quick() else 50
"""Images generated for each setting."""


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
    count, base = min(len(none.images), 300), Generator(clinic.flux)
    real = compute_features(
        render(stream("photos"), range(count)).images.permute(0, 2, 3, 1).numpy(), clinic.features
    )
    plain = compute_features(none.images[:count], clinic.features)
    kid, covered = kid_by_fold(real, plain), np.array(precision_recall(real, plain))
    figures, table = [], []
    for moment in MOMENTS:
        # Two frames lie before T_c.
        window = {"stop": moment, "start": max(config.dynamics.start, round(moment + 0.2, 2))}
        changed = config.model_copy(update={"dynamics": config.dynamics.model_copy(update=window)})
        place = folder if changed == config else f"{folder}-at-{moment:g}"
        other = generate_row(clinic, place, base, SAMPLING["flux"], "evaluation", count, steer(changed))
        vectors = compute_features(other.images, clinic.features)
        gap = kid_by_fold(real, vectors) - kid
        precision, recall = np.array(precision_recall(real, vectors)) - covered
        note = f"KID {gap.mean():+.4f}, precision {precision:+.3f}, recall {recall:+.3f}, against none"
        id = f"true_freq_{name}_at_{moment:g}"
        figures.append(paired_ratio(id, other.flawed, none.flawed[:count], note))
        table.append((moment, float(figures[-1].value), float(gap.mean()), precision, recall))
    names = ("moment", "frequency_ratio", "kid", "precision", "recall")
    kept = curve(f"trainingfree-moment-{name}", dict(zip(names, zip(*table, strict=True), strict=True)))
    best = min(table, key=lambda row: row[1])
    note = f"T_c / T of the lowest frequency, {best[1]:.3f}; curves in {kept}"
    return [*figures, figure(f"best_moment_{name}", best[0], None, "share", count, note)]


def step_figures(clinic: ClinicModels, form: str, config: DynamicsConfig) -> list[Figure]:
    """Do regions persist with more steps (ASCED, Sec. 7.1)? By the overlap with those of the most steps."""
    base = Generator(clinic.flux)
    regions, rows, frequencies = {}, [], {}
    for steps in STEPS:
        sampling = SamplingConfig(steps=steps, batch=32)
        made = generate_row(
            clinic, f"steps-{steps}", base, sampling, "evaluation", FEW, recorded={form: config}
        )
        regions[steps] = made.extras[f"{form}|map"] >= 128
        frequencies[steps] = float(made.flawed.mean())
    most = regions[STEPS[-1]]
    for steps in STEPS:
        same, others = overlap(regions[steps], most), overlap(regions[steps], np.roll(most, 1, axis=0))
        rows.append((steps, same, others, float(regions[steps].mean()), frequencies[steps]))
    names = ("steps", "overlap", "chance", "regions", "frequency")
    kept = curve("trainingfree-steps", dict(zip(names, zip(*rows, strict=True), strict=True)))
    first = rows[-2]
    note = (
        f"of {first[0]} and {STEPS[-1]} steps, {first[2]:.3f} between different images; judge's frequency "
        f"from {rows[0][4]:.2f} at {STEPS[0]} to {rows[-1][4]:.2f}; curve in {kept}"
    )
    return [figure("sensitivity_steps", first[1], None, "IoU", FEW, note)]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Mean intersection over union of bool masks NHW, over pairs in which there is anything."""
    union = (first | second).sum((1, 2))
    pairs: Sequence[Any] = (first & second).sum((1, 2))[union > 0] / union[union > 0]
    return float(np.mean(pairs)) if len(pairs) else 0.0
