"""How the images depend on the time of correction and the number of steps, for FULL; with curves."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dataengine.clinic.training.data import render
from dataengine.clinic.world import stream
from dataengine.diagnosis.config import DynamicsConfig
from dataengine.quality.distances import compute_features
from dataengine.treatment.config import CorrectionConfig, SamplingConfig
from tests.bench.guided_sampling import (
    SAMPLING,
    SIZES,
    Generator,
    ImageRow,
    Steering,
    generate_row,
    kid_by_fold,
)
from tests.bench.harness import Figure, curve, figure, quick
from tests.bench.treatment_rows import ClinicModels

MOMENTS = (0.3, 0.48, 0.7) if quick() else (0.3, 0.4, 0.48, 0.6, 0.7)
"""T_c / T, counted from noise = 1."""
STEPS = (10, 20) if quick() else (10, 20, 50, 100, 250, 1000)
"""Numbers of function evaluations."""
FEW = 4 if quick() else 50
"""Images generated for each setting."""


def moment_figures(
    clinic: ClinicModels,
    none: ImageRow,
    config: CorrectionConfig,
    steer: Callable[[CorrectionConfig], Steering],
) -> list[Figure]:
    """TTC at other moments: KID and the judge's frequency against none."""
    count, base = min(SIZES.kid, 300), Generator(clinic.flux)
    real = compute_features(
        render(stream("photos"), range(count)).images.permute(0, 2, 3, 1).numpy(), clinic.features
    )
    plain = kid_by_fold(real, compute_features(none.images[:count], clinic.features))
    rows = []
    for moment in MOMENTS:
        dynamics = config.dynamics.model_copy(update={"stop": moment})
        changed = config.model_copy(update={"dynamics": dynamics})
        other = generate_row(
            clinic, f"moment-{moment:g}", base, SAMPLING["flux"], "evaluation", count, steer(changed)
        )
        gap = kid_by_fold(real, compute_features(other.images, clinic.features)) - plain
        ratio = other.flawed.mean() / max(none.flawed[:count].mean(), 1e-9)
        rows.append((moment, float(gap.mean()), float(ratio)))
    columns = dict(zip(("moment", "kid_minus_none", "frequency_ratio"), zip(*rows, strict=True), strict=True))
    best = min(rows, key=lambda row: row[1])
    note = (
        f"KID against none at the best T_c/T, {best[0]:g}; curve in {curve('trainingfree-moment', columns)}"
    )
    return [figure("sensitivity_moment", best[1], None, "KID", count, note)]


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
