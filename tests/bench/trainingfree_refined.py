"""What self-refining training is worth beyond its KID: inpainting, and a highlighter that starts from trained
features, each beside its control of flattened maps."""

from dataclasses import replace

import numpy as np

from dataengine.quality.distances import compute_features
from dataengine.treatment.config import SamplingConfig
from dataengine.treatment.families.loading import load_family
from dataengine.treatment.guided_sampling.inpainting import inpaint
from tests.bench.guided_sampling import KEEPER, SIZES, ImageRow, kid_by_fold
from tests.bench.harness import Figure, device
from tests.bench.self_refining import (
    ANEW,
    ROWS,
    TRAINING,
    Row,
    best_strength,
    configured,
    doubled,
    drawings,
    fam_figures,
    gain,
    kid_of,
    train_row,
)
from tests.bench.treatment_rows import ClinicModels


def pretrained_figures(clinic: ClinicModels, made: ImageRow) -> list[Figure]:
    """A highlighter that starts from features of a trained network: does it find flaws, and does the gain
    then need to know where? The reader stands for ImageNet's weights, which are not shipped."""
    figures = fam_figures("flux_reader", made, pretrained=True)
    base, chosen = kid_of(clinic, Row("base", ROWS["base"])), replace(best_strength(clinic)[0], reader=True)
    for end, row in {"reader": chosen, "reader_flat": replace(chosen, flat=True)}.items():
        note = f"{chosen.name}, highlighter from the reader's features" + (", flattened" if row.flat else "")
        figures.append(gain(f"self_refining_gain_{end}", base, kid_of(clinic, row), note))
    return figures


def inpainting_figures(clinic: ClinicModels) -> list[Figure]:
    """KID of held-out images whose middle was inpainted to other held-out images: the refined model and its
    control with flattened maps against base."""
    chosen, note = best_strength(clinic)
    base = inpainted_kid(clinic, Row("base", ROWS["base"]))
    told = f"KID of images with the middle quarter inpainted, base's {base.mean():.4f}; {note}"
    return [
        gain("inpainting_gain", base, inpainted_kid(clinic, chosen), told),
        gain("inpainting_gain_flat", base, inpainted_kid(clinic, replace(chosen, flat=True)), told),
    ]


def inpainted_kid(clinic: ClinicModels, row: Row) -> np.ndarray:
    """KID of each fold of what a row's model inpaints to held-out images that are not inpainted."""
    real = compute_features(doubled(drawings(SIZES.kid, ANEW)[1]), clinic.features)
    return kid_by_fold(real, compute_features(doubled(inpainted(row, SIZES.kid)), clinic.features))


def inpainted(row: Row, count: int) -> np.ndarray:
    """Held-out images whose middle a row's finished model generated, uint8 NHW3; cached."""

    def make() -> dict[str, np.ndarray]:
        family = load_family(train_row(row), device=device())
        given = drawings(count)[1]
        missing = np.zeros(given.shape[:3], dtype=bool)
        height, width = given.shape[1:3]
        missing[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
        settings = SamplingConfig(steps=25, batch=50)
        parts = [
            inpaint(family, given[rows], missing[rows], [""] * len(rows), rows.tolist(), settings)
            for rows in np.array_split(np.arange(count), -(-count // settings.batch))
        ]
        return {"images": np.concatenate(parts)}

    settings = [configured(row), TRAINING, row.flat]
    return KEEPER.arrays(f"refined/{row.folder}-{count}-inpainted", make, settings)["images"]
